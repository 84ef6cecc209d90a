"""What the trainer asks of an engine, and the records it answers with. Imports no DeepSpeed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from llama_dist.parallel.grid import Grid


class MicroBatch(NamedTuple):
    """What one replica computes in one forward pass: B rows of T tokens, on the CPU."""

    tokens: torch.Tensor
    """int64 [B, T]"""

    labels: torch.Tensor
    """int64 [B, T]: the next tokens, or the loss's IGNORED_LABEL."""

    positions: torch.Tensor | None = None
    """int64 [B, T]: every 0, with which each row begins, starts a document that attention does not leave.
    None lets attention see the whole row; it is None in all micro-batches of a run, or in none."""


OnMicroBatch = Callable[[int], None]
"""Told on this rank, as it begins a micro-batch, how many of the call it has begun. Stages that are handed none by
DeepSpeed, those between the first and the last, are silent."""


def tell_nobody(_number: int) -> None:
    """Stand for an `OnMicroBatch` that nobody wants."""


def announced(micro_batches: Iterable[MicroBatch], on_micro_batch: OnMicroBatch) -> Iterator[MicroBatch]:
    """Yield the micro-batches, and tell of each before."""
    for number, micro_batch in enumerate(micro_batches, start=1):
        on_micro_batch(number)
        yield micro_batch


STATES = ("fp32", "exp_avg", "exp_avg_sq")
"""What is kept of each parameter: the master weight and AdamW's two moments."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, the same on every rank."""

    loss: float
    """Mean cross-entropy over the labels of the global batch that are not masked, in nats."""

    gradient_norm: float
    """L2 norm of the whole gradient before clipping."""

    skipped: bool
    """True where DeepSpeed found a gradient that is no number and moved no weight: in fp16, an overflow."""


@dataclass(frozen=True)
class StatePartition:
    """The part of one parameter's state that this rank holds: a range of the flattened tensor.

    `tensors` maps each of STATES to a live fp32 tensor [length]: reading saves it, writing in place loads it.
    """

    name: str
    """The parameter's name, free of any topology, as in `layers.12.attention.wq.weight`."""

    shape: tuple[int, ...]
    """Shape of the whole parameter."""

    offset: int
    """First element of this range in the flattened parameter."""

    tensors: dict[str, torch.Tensor]

    is_saved_elsewhere: bool = False
    """True for the second copy of a tied weight: it is loaded here, but another rank saves it."""

    @property
    def length(self) -> int:
        """Elements of the range."""
        return self.tensors["fp32"].numel()


class Engine(Protocol):
    """A model cut over ranks, with its optimizer. All methods are collective: every rank must call them alike."""

    grid: Grid

    def train_batch(
        self, micro_batches: Sequence[MicroBatch], learning_rate: float, on_micro_batch: OnMicroBatch = tell_nobody
    ) -> StepResult:
        """Forward and backward over this replica's micro-batches, then one optimizer step."""
        ...

    def evaluate(self, micro_batches: Sequence[MicroBatch], on_micro_batch: OnMicroBatch = tell_nobody) -> float:
        """Mean cross-entropy in nats over the unmasked labels of all ranks' micro-batches; changes no state.

        Every replica gives equally many micro-batches, if need be with rows whose labels are all masked.
        """
        ...

    def partitions(self) -> Iterator[StatePartition]:
        """Yield the state that this rank must save or fill; over all ranks every element is covered."""
        ...

    def weights_checksum(self) -> int | None:
        """Checksum of the working weights that every replica of this rank's stage holds alike; None at ZeRO-3, which
        cuts them."""
        ...

    def scalars(self) -> dict[str, float]:
        """Small state that every rank has alike: optimizer steps, loss scale."""
        ...

    def restore(self, scalars: dict[str, float]) -> None:
        """Take over `scalars`, and refresh the working weights from the partitions just filled."""
        ...
