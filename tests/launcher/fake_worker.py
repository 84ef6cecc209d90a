"""A rank that keeps the process contract of a trainer and computes nothing: for tests of the supervision alone.

What it does is read from `script.json` two levels above the run directory: a list with one entry an attempt (the
last one holds for all further attempts): `steps`, `save_every`, `first_step_seconds`, and for chosen ranks `kill_at`
(SIGKILL to itself), `hang_at` (ignores SIGTERM), `stop_at` (SIGSTOP to itself), `hold_gil_at` (native code that keeps
the interpreter's lock), `sleep_at` (waits for ever where data is read).
"""

import argparse
import ctypes
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import psutil

from llama_dist.config import RunDirectory
from llama_dist.runtime.stacks import dump_stacks_on_signal

STEP_SECONDS = 0.02


class Worker:
    def __init__(self, run: Path, attempt: int):
        self.run, self.attempt, self.rank = run, attempt, int(os.environ["RANK"])
        script = json.loads((run.parent.parent / "script.json").read_text())
        self.script = script[min(attempt, len(script)) - 1]
        self.step = self.began = self._newest_checkpoint()
        self.stopping = False
        signal.signal(signal.SIGTERM, self._on_term)
        dump_stacks_on_signal(RunDirectory(run).stacks(attempt, self.rank))

    def train(self) -> int:
        print(f"rank {self.rank} begins at step {self.step}", flush=True)
        if "first_step_seconds" in self.script:
            self.beat("first step")
            time.sleep(self.script["first_step_seconds"])
        while self.step < self.script["steps"]:
            self.beat("train")
            if self.stopping:
                self.save()
                return self.end(143, "asked to stop")
            time.sleep(STEP_SECONDS)
            self.step += 1
            self.misbehave()
            if self.step % self.script.get("save_every", 5) == 0:
                self.save()
        self.save()
        return self.end(0, "reached the last step")

    def misbehave(self) -> None:
        mine = dict(self.script.get("ranks", {}).get(str(self.rank), {}))
        for name in [name for name in mine if name.endswith("_after")]:  # steps of this attempt
            mine[name.replace("_after", "_at")] = self.began + mine.pop(name)
        if self.step == mine.get("kill_at"):
            self.beat("train")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.step == mine.get("stop_at"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.step == mine.get("hold_gil_at"):
            while True:  # a signal ends a sleep
                ctypes.PyDLL(None).sleep(600)
        if self.step == mine.get("sleep_at"):
            self.beat("read")
            time.sleep(600)
        if self.step == mine.get("hang_at"):
            self.beat("hang")
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(60)

    def save(self) -> None:
        if self.rank == 0:
            directory = self.run / "checkpoints" / f"step_{self.step:08d}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "manifest.json").write_text("{}")

    def beat(self, phase: str) -> None:
        created = psutil.Process().create_time()
        values = {"pid": os.getpid(), "create_time": created, "host": socket.gethostname(), "attempt": self.attempt}
        self._write(f"heartbeats/rank_{self.rank:05d}.json", values | {"step": self.step, "phase": phase})

    def end(self, code: int, reason: str) -> int:
        values = {"rank": self.rank, "exit_code": code, "reason": reason, "step": self.step}
        path = f"attempts/{self.attempt:04d}/exits/rank_{self.rank:05d}.json"
        self._write(path, values | {"host": socket.gethostname()})
        return code

    def _write(self, path: str, values: dict) -> None:
        beside = self.run / f"{path}.{self.rank}.new"
        beside.write_text(json.dumps(values | {"time": time.time()}))
        beside.replace(self.run / path)

    def _newest_checkpoint(self) -> int:
        return max((int(path.parent.name[5:]) for path in self.run.glob("checkpoints/step_*/manifest.json")), default=0)

    def _on_term(self, _number, _frame) -> None:
        self.stopping = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-directory", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    sys.exit(Worker(arguments.run_directory, arguments.attempt).train())
