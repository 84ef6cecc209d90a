"""Hands a step's metrics on: to the spool, and to the console. Rank 0 records, the others do nothing."""

from collections.abc import Callable
from pathlib import Path

from llama_dist.metrics.console import StepLine
from llama_dist.metrics.record import StepMetrics
from llama_dist.metrics.spool import Spool
from llama_dist.runtime.fence import Fence


class Recorder:
    """Records steps on rank 0; the other ranks only learn, once a step, whether their attempt is over."""

    def __init__(
        self, metrics_directory: Path, fence: Fence, num_steps: int, *, rank: int, tell: Callable[[str], None]
    ) -> None:
        self._fence = fence
        self._spool = Spool(metrics_directory, fence.attempt) if rank == 0 else None
        self._line = StepLine(num_steps)
        self._tell = tell

    def record(self, metrics: StepMetrics) -> None:
        """Append one step to the spool and print its line. Raises FencedError on every rank of an old attempt."""
        self._fence.check()
        if self._spool:
            self._spool.append(metrics)
            self._tell(self._line.format(metrics))

    def sync(self) -> None:
        """Bring the spool to the disk: called with a checkpoint, so that neither outlives the other."""
        if self._spool:
            self._spool.sync()

    def close(self) -> None:
        """Write what waits, and tell what could not be written."""
        self._fence.check()
        if self._spool:
            self._spool.close()
            complaint = self._spool.complaint()
            if complaint:
                self._tell(f"ALERT: {complaint}")
