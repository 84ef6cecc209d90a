"""Which samples a rank's DataLoader asks for next: the same global batches at every world size.

A batch sampler, in PyTorch's sense, without PyTorch: it yields lists of sample numbers. Reads no data.
"""

from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import DataError

_VERSION = 1


class ElasticBatchSampler:
    """Yields the micro-batches of one rank as sample numbers, step by step, from `consumed_samples` on.

    Rank r of n takes, in micro-step m and row j, sample `consumed + (m * n + r) * micro_batch + j`. So a step is a
    plain range of sample numbers over all ranks. The position counts steps that `step_done` was told
    of, not batches that worker processes fetched ahead.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        global_batch_sequences: int,
        micro_batch_sequences: int = 1,
        consumed_samples: int = 0,
        num_samples: int | None = None,
    ) -> None:
        """Raise DataError where the sizes do not fit. Without `num_samples` the iteration has no end."""
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} of {world_size}: needed 0 to {world_size - 1}")
        together = world_size * micro_batch_sequences
        if global_batch_sequences < 1 or together < 1 or global_batch_sequences % together:
            raise DataError(
                f"global_batch_sequences {global_batch_sequences} is not a multiple of {together} "
                f"(micro_batch_sequences {micro_batch_sequences} x world_size {world_size})"
            )
        self.consumed_samples = consumed_samples
        """Samples of all ranks together that training has taken: the number of the next step's first one."""
        self._rank = rank
        self._world_size = world_size
        self._global_batch_sequences = global_batch_sequences
        self._micro_batch_sequences = micro_batch_sequences
        self._num_samples = num_samples

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one rank in one step."""
        return self._global_batch_sequences // (self._world_size * self._micro_batch_sequences)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield micro-batches from the present position on; a last step that is not whole is left out."""
        consumed = self.consumed_samples
        while self._num_samples is None or consumed + self._global_batch_sequences <= self._num_samples:
            for micro_step in range(self.num_micro_batches):
                first = consumed + (micro_step * self._world_size + self._rank) * self._micro_batch_sequences
                yield list(range(first, first + self._micro_batch_sequences))
            consumed += self._global_batch_sequences

    def __len__(self) -> int:
        """Micro-batches that are left. Raises TypeError without `num_samples`, as PyTorch expects of the endless."""
        if self._num_samples is None:
            raise TypeError("without num_samples the sampler has no length")
        steps = max(0, self._num_samples - self.consumed_samples) // self._global_batch_sequences
        return steps * self.num_micro_batches

    def step_done(self) -> None:
        """Count one step: call it after each optimizer step, on every rank."""
        self.consumed_samples += self._global_batch_sequences

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the same on every rank, for any world size."""
        return {
            "version": _VERSION,
            "consumed_samples": self.consumed_samples,
            "global_batch_sequences": self._global_batch_sequences,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; the next iteration starts there. Raises DataError for another global batch."""
        ours = self.state_dict()
        differing = [name for name in ("version", "global_batch_sequences") if state.get(name) != ours[name]]
        consumed = state.get("consumed_samples")
        if differing or not isinstance(consumed, int) or consumed < 0:
            raise DataError(
                f"sampler state: saved {state}, this sampler is at {ours}: "
                "the global batch is part of the order, keep it"
            )
        self.consumed_samples = consumed
