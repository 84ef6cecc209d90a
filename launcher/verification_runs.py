"""The sub-runs of `verify-resume`: real launches of the user's config, stopped at a step, one with a rank killed.

Starts and ends them; judges nothing.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from launcher.attempt_files import write_config
from launcher.plan import tied_command
from launcher.records import process_is_alive, read_heartbeats
from launcher.tied import PARENT_VARIABLE
from llama_dist.checkpoint.manifest import MANIFEST_NAME, step_directory
from llama_dist.config import ClusterConfig, ReportedError, RunConfig, RunDirectory, write_yaml
from llama_dist.exit_codes import ExitCode

_POLL_SECONDS = 0.002  # the steps of a small model pass quickly, and the kill must come before the next save
_GRACE_SECONDS = 1.0  # what a stopped run does after the last step that counts is of no use


class VerificationError(ReportedError):
    """A sub-run did not come as far as it must: nothing was proved or refuted."""

    def __init__(self, message: str, exit_code: int = ExitCode.RETRY) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class SubRun:
    """One launch below the verification's directory: `config` is the user's, but for what is saved and recorded."""

    config: RunConfig
    cluster: ClusterConfig
    num_steps: int
    """Steps that are compared; the launch is stopped after them."""

    output: TextIO
    """Where the launch's own output goes."""

    @property
    def run(self) -> RunDirectory:
        """Its directory."""
        return RunDirectory(Path(self.config.runs_directory) / self.config.name)

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint of `step`."""
        return step_directory(self.run.checkpoints, step)

    def train(self) -> None:
        """Launch, and stop once the checkpoint of the last step is there. Raises VerificationError on another end."""
        with self._launched() as process:
            self._wait_for(process, self.num_steps)

    def train_interrupted(self) -> int:
        """Launch, kill the last rank once half the steps are saved, and let the supervisor go on. Answers the rank."""
        with self._launched() as process:
            self._wait_for(process, self.num_steps // 2)
            rank = self._kill_last_rank()
            self._wait_for(process, self.num_steps)
        return rank

    def begin_with(self, checkpoint: Path) -> None:
        """Give the run, before its launch, a checkpoint of another: as links where the disk has them, not as copies."""
        target = self.run.checkpoints
        self.run.path.mkdir(mode=0o700)
        if checkpoint.parent.is_symlink():  # `checkpoint.directory` is set: stay on that disk
            place = checkpoint.parent.readlink().with_name(f"{self.run.name}-{secrets.token_hex(4)}")
            place.mkdir(mode=0o700)
            target.symlink_to(place)
        shutil.copytree(checkpoint, target / checkpoint.name, copy_function=_link_or_copy)

    def remove_checkpoints(self) -> None:
        """Remove what is large of it."""
        checkpoints = self.run.checkpoints
        if checkpoints.is_symlink():
            shutil.rmtree(checkpoints.readlink(), ignore_errors=True)
            checkpoints.unlink()
        shutil.rmtree(checkpoints, ignore_errors=True)

    @contextmanager
    def _launched(self) -> Iterator[subprocess.Popen[bytes]]:
        """Type `llama-dist launch`, so to say; stop it when the block ends. It ends with this process in any case."""
        run_file = self.run.path.with_suffix(".yaml")
        cluster_file = self.run.path.with_suffix(".cluster.yaml")
        write_config(run_file, self.config)
        write_yaml(cluster_file, self.cluster.model_dump(mode="json"))
        launch = (sys.executable, "-m", "launcher", "launch", str(run_file), "--cluster", str(cluster_file))
        process = subprocess.Popen(
            tied_command(None, launch),
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=self.output,
        )
        try:
            yield process
        finally:
            _stop(process)

    def _wait_for(self, process: "subprocess.Popen[bytes]", step: int) -> None:
        manifest = self.checkpoint(step) / MANIFEST_NAME
        # The save after it waits for it: a rank that is past both tells that it failed.
        step_past_it = step + self.config.checkpoint.interval_steps + 1
        while not manifest.exists():
            code = process.poll()
            if code is not None and not manifest.exists():
                message = f"`{self.run.path}` ended with exit code {code} before step {step} was saved"
                raise VerificationError(message, code if code > 0 else ExitCode.RETRY)
            steps = [beat.step for beat in read_heartbeats(self.run.heartbeats).values()]
            if max(steps, default=0) >= step_past_it and not manifest.exists():
                message = f"`{self.run.path}` could not save step {step}: see the ALERT above"
                raise VerificationError(message, ExitCode.STORAGE)
            time.sleep(_POLL_SECONDS)

    def _kill_last_rank(self) -> int:
        beats = read_heartbeats(self.run.heartbeats)
        for rank in sorted(beats, reverse=True):
            beat = beats[rank]
            if process_is_alive(beat.pid, beat.create_time):
                os.kill(beat.pid, signal.SIGKILL)
                return rank
        raise VerificationError(f"`{self.run.path}`: no rank was left to kill")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a launch: the first SIGTERM lets its ranks save, the second ends them, and SIGKILL all that is left."""
    waits: tuple[tuple[Callable[[], None], float], ...] = (
        (process.terminate, _GRACE_SECONDS),
        (process.terminate, 60.0),
        (process.kill, 60.0),
    )
    for end, seconds in waits:
        if process.poll() is None:
            end()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
