"""Batches as torch tensors: the only file of the package that imports torch. Moves nothing to a device."""

from typing import Any, NamedTuple

import numpy.typing as npt
import torch

from data_pipeline.batch import Batch


class BatchTensors(NamedTuple):
    """One batch on the CPU, each int64 [B, T]; in pinned memory where there is a CUDA device."""

    tokens: torch.Tensor
    """The inputs."""

    labels: torch.Tensor
    """The token that follows each input, or IGNORED_LABEL."""

    positions: torch.Tensor | None
    """Place inside the document part, from 0; None unless documents are isolated."""


def to_tensors(batch: Batch) -> BatchTensors:
    """Return the batch as tensors. Without a CUDA device they share its memory and live as long as it does.

    With one they are copies in pinned memory, which may go to the device without waiting: torch's host allocator
    gives their memory to a later batch once they are freed and the copies to the device are done.
    """
    tensor = _pinned if torch.cuda.is_available() else _shared
    positions = None if batch.positions is None else tensor(batch.positions)
    return BatchTensors(tensor(batch.tokens), tensor(batch.labels), positions)


def _shared(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array)


def _pinned(array: npt.NDArray[Any]) -> torch.Tensor:
    pinned = torch.empty(array.shape, dtype=torch.int64, pin_memory=True)
    return pinned.copy_(torch.from_numpy(array))
