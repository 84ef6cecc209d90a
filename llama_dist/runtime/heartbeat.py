"""Says where a rank is: one small file, replaced at each step and phase, read by `llama-dist status` and `stop`."""

import json
import os
import socket
import time
from pathlib import Path

import psutil

from llama_dist.runtime.fence import NO_FENCE, Fence

_MICRO_BATCH_SECONDS = 0.5  # a beat costs some 0.1 ms on a local disk, and milliseconds on a network file system


class Heartbeat:
    """Writes `heartbeats/rank_NNNNN.json` of one rank. A failed write is dropped: it must not end the training.

    Behind a closed fence nothing is written: the file is a newer attempt's.
    """

    def __init__(self, path: Path, attempt: int, fence: Fence = NO_FENCE) -> None:
        self._path, self._fence = path, fence
        self._identity = {
            "pid": os.getpid(),
            # With the start time, a recorded pid can never be taken for a later process that got the same number.
            "create_time": psutil.Process().create_time(),
            "host": socket.gethostname(),
            "attempt": attempt,
        }
        self.step = 0
        self.phase = "starting"
        self._beaten_at = float("-inf")

    def beat(self, step: int, phase: str, micro_batch: int = 0) -> None:
        """Record that this rank has done `step` updates, is in `phase`, and has begun `micro_batch` batches of it."""
        self.step, self.phase, self._beaten_at = step, phase, time.monotonic()
        if self._fence.is_closed():
            return
        progress = {"step": step, "phase": phase, "micro_batch": micro_batch, "time": time.time()}
        values = {**self._identity, **progress}
        beside = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(exist_ok=True, mode=0o700)  # no parents: a deleted run directory stays so
            beside.write_text(json.dumps(values), encoding="utf-8")
            beside.replace(self._path)
        except OSError:
            return

    def begin_micro_batch(self, number: int) -> None:
        """Record that micro-batch `number` of this phase, from 1, begins; left out where the last beat is young."""
        if time.monotonic() - self._beaten_at >= _MICRO_BATCH_SECONDS:
            self.beat(self.step, self.phase, number)

    def where(self) -> str:
        """Place for error messages."""
        return f"after step {self.step}, in phase `{self.phase}`, on host {self._identity['host']}"
