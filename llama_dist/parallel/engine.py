"""What the trainer asks of an engine, and the records it answers with. Imports no DeepSpeed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llama_dist.parallel.grid import Grid

MicroBatch = tuple[torch.Tensor, torch.Tensor]
"""(tokens, labels), each int64 [B, T] on the CPU."""

STATES = ("fp32", "exp_avg", "exp_avg_sq")
"""What is kept of each parameter: the master weight and AdamW's two moments."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, the same on every rank."""

    loss: float
    """Mean cross-entropy over the tokens of the global batch, in nats."""

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

    def train_batch(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """Forward and backward over this replica's micro-batches, then one optimizer step."""
        ...

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Mean cross-entropy in nats over all ranks' micro-batches; changes no state."""
        ...

    def partitions(self) -> Iterator[StatePartition]:
        """Yield the state that this rank must save or fill; over all ranks every element is covered."""
        ...

    def scalars(self) -> dict[str, float]:
        """Small state that every rank has alike: optimizer steps, loss scale."""
        ...

    def restore(self, scalars: dict[str, float]) -> None:
        """Take over `scalars`, and refresh the working weights from the partitions just filled."""
        ...
