"""Starts the metrics shipper beside the run and waits for its last flush. It never decides anything about the run."""

import os
import subprocess
import sys
from collections.abc import Mapping

from launcher.console import Console
from llama_dist.config import RunDirectory

SHIPPER_MODULE = "llama_dist.metrics.ship"
_LAST_FLUSH_SECONDS = 60.0


class Shipper:
    """One shipper process for a launch, over all its attempts. It ends by itself when the run has ended."""

    def __init__(self, run: RunDirectory, environment: Mapping[str, str]) -> None:
        run.metrics.mkdir(mode=0o700, exist_ok=True)
        self._log = run.metrics / "ship.log"
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", SHIPPER_MODULE, "--run-directory", str(run.path)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C for the run must not cut the last flush short
            )
        finally:
            os.close(descriptor)

    def end(self) -> None:
        """End it at once: the spool is another supervisor's now, whose shipper sends the rest."""
        self._process.kill()
        self._process.wait()

    def finish(self, console: Console) -> None:
        """Wait for the last flush, some seconds at most. Call it after the run's state has become terminal."""
        try:
            self._process.wait(_LAST_FLUSH_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            console.say(f"the metrics shipper did not finish in {_LAST_FLUSH_SECONDS:.0f} s: see {self._log}; ")
            console.say("nothing is lost: the spool keeps every step, and the next launch ships the rest")
            return
        if self._process.returncode != 0:
            console.say(f"the metrics shipper ended with code {self._process.returncode}: see {self._log}")
