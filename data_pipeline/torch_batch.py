"""Batches as torch tensors: the only file of the package that imports torch."""

import torch

from data_pipeline.batch import Batch


def to_tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (tokens, labels), each int64 [B, T] on the CPU, sharing the batch's memory."""
    return torch.from_numpy(batch.tokens), torch.from_numpy(batch.labels)
