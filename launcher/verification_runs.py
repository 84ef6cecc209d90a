"""The sub-runs of `verify-resume`: trials that are stopped at a step, one with a rank killed. Judges nothing."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from launcher.records import process_is_alive, read_heartbeats
from launcher.trial import Trial, TrialError
from llama_dist.checkpoint.manifest import MANIFEST_NAME
from llama_dist.exit_codes import ExitCode

_POLL_SECONDS = 0.002  # the steps of a small model pass quickly, and the kill must come before the next save


@dataclass(frozen=True, kw_only=True)
class SubRun(Trial):
    """A trial of the first `num_steps` steps."""

    num_steps: int
    """Steps that are compared; the launch is stopped after them."""

    def train(self) -> None:
        """Launch, and stop once the checkpoint of the last step is there. Raises TrialError on another end."""
        with self.launched() as process:
            self._wait_for(process, self.num_steps)

    def train_interrupted(self) -> int:
        """Launch, kill the last rank once half the steps are saved, and let the supervisor go on. Answers the rank."""
        with self.launched() as process:
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

    def _wait_for(self, process: "subprocess.Popen[bytes]", step: int) -> None:
        manifest = self.checkpoint(step) / MANIFEST_NAME
        # The save after it waits for it: a rank that is past both tells that it failed.
        step_past_it = step + self.config.checkpoint.interval_steps + 1
        while not manifest.exists():
            code = process.poll()
            if code is not None and not manifest.exists():
                message = f"`{self.run.path}` ended with exit code {code} before step {step} was saved"
                raise TrialError(message, code if code > 0 else ExitCode.RETRY)
            steps = [beat.step for beat in read_heartbeats(self.run.heartbeats).values()]
            if max(steps, default=0) >= step_past_it and not manifest.exists():
                message = f"`{self.run.path}` could not save step {step}: see the ALERT above"
                raise TrialError(message, ExitCode.STORAGE)
            time.sleep(_POLL_SECONDS)

    def _kill_last_rank(self) -> int:
        beats = read_heartbeats(self.run.heartbeats)
        for rank in sorted(beats, reverse=True):
            beat = beats[rank]
            if process_is_alive(beat.pid, beat.create_time):
                os.kill(beat.pid, signal.SIGKILL)
                return rank
        raise TrialError(f"`{self.run.path}`: no rank was left to kill")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
