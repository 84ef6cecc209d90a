"""Says where a rank is: one small file, replaced at each step and phase, read by `llama-dist status` and `stop`."""

import json
import os
import socket
import time
from pathlib import Path

import psutil

from llama_dist.runtime.fence import NO_FENCE, Fence


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

    def beat(self, step: int, phase: str) -> None:
        """Record that this rank has done `step` updates and now is in `phase`."""
        self.step, self.phase = step, phase
        if self._fence.is_closed():
            return
        values = {**self._identity, "step": step, "phase": phase, "time": time.time()}
        beside = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside.write_text(json.dumps(values), encoding="utf-8")
            beside.replace(self._path)
        except OSError:
            return

    def where(self) -> str:
        """Place for error messages."""
        return f"after step {self.step}, in phase `{self.phase}`, on host {self._identity['host']}"
