"""Measures a training step: its time, its tokens per second, the memory at its peak. Imports no torch."""

import resource
import time
from collections.abc import Callable

from llama_dist.metrics.record import StepMetrics

BYTES_PER_GIB = 1024**3


def peak_resident_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


class Meter:
    """Times one step at a time. On CUDA, give `torch.cuda.max_memory_allocated` as `peak_memory_bytes`."""

    def __init__(
        self,
        *,
        tokens_per_step: int,
        peak_memory_bytes: Callable[[], int] = peak_resident_bytes,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.tokens_per_step = tokens_per_step
        self._peak_memory_bytes = peak_memory_bytes
        self._clock = clock
        self._started = clock()
        self._stall_seconds = 0.0

    def start_step(self) -> None:
        """Begin the time of a step; what lies between two steps (evaluation, checkpoint) is not counted."""
        self._started = self._clock()
        self._stall_seconds = 0.0

    def end_reading(self) -> None:
        """End the first part of a step, in which it waited for its batch."""
        self._stall_seconds = self._clock() - self._started

    def end_step(
        self,
        *,
        step: int,
        tokens_seen: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        skipped: bool = False,
    ) -> StepMetrics:
        """End the time of the step and record it. `step` counts from 1; `tokens_seen` includes it.

        The engine's loss must have been read before (that waits for the device), or the time is too short.
        """
        seconds = max(self._clock() - self._started, 1e-9)
        return StepMetrics(
            step=step,
            tokens_seen=tokens_seen,
            loss=loss,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            tokens_per_second=self.tokens_per_step / seconds,
            step_seconds=seconds,
            memory_gib=self._peak_memory_bytes() / BYTES_PER_GIB,
            skipped=skipped,
            data_stall_seconds=self._stall_seconds,
        )
