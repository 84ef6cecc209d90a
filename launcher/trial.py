"""Trials: real launches of a user's config that are not the run. They lie in directories below it, and are ended here.

`verify-resume` and `rehearse` are made of them. Judges nothing.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from launcher.attempt_files import write_config
from launcher.errors import LiveRunError
from launcher.execute import create_run_directory
from launcher.plan import tied_command
from launcher.run_lock import live_supervisor_pid
from launcher.tied import PARENT_VARIABLE
from llama_dist.checkpoint.manifest import step_directory
from llama_dist.config import ClusterConfig, ConfigError, ReportedError, RunConfig, RunDirectory, write_yaml
from llama_dist.exit_codes import ExitCode

_GRACE_SECONDS = 1.0  # what a stopped trial does after the last step that counts is of no use


class TrialError(ReportedError):
    """A trial did not come as far as it must: nothing was proved or refuted."""

    def __init__(self, message: str, exit_code: int = ExitCode.RETRY) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def refuse_live(run: RunDirectory, to_do: str) -> None:
    """Raise LiveRunError for a run that is live here: a trial would share its devices, its memory and its disk.

    `to_do` is the verb, for the message.
    """
    if (pid := live_supervisor_pid(run)) is not None:
        raise LiveRunError(
            f"run `{run.name}` is live here (supervisor pid {pid}) and has the machine: {to_do} before it starts,"
            f" or end it with `llama-dist stop {run.path}`; it continues afterwards"
        )


def new_trial_directory(run: RunDirectory, kind: str) -> Path:
    """Make the directory of one set of trials, `RUN/kind/TIME`. Raises ConfigError where one began this second."""
    create_run_directory(run)
    parent = run.path / kind
    parent.mkdir(mode=0o700, exist_ok=True)
    directory = parent / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(f"{directory}: exists: another trial of this run began this second") from None
    return directory


def trial_config(
    config: RunConfig,
    name: str,
    directory: Path,
    *,
    interval_steps: int,
    keep_last: int,
    **sections: Mapping[str, object],
) -> RunConfig:
    """Return the user's config with other saves and records; `sections` replaces more fields, by section."""
    replaced: dict[str, dict[str, object]] = {
        "checkpoint": {
            "interval_steps": interval_steps,
            "interval_minutes": None,
            "keep_last": keep_last,
            "keep_every_steps": None,
            "keep_best": 0,
            "upload": None,
        },
        "evaluation": {"interval_steps": 0},
        "metrics": {"mlflow": False, "audit_samples": True},
        "supervision": {"wall_clock_limit_minutes": None},
    }
    for section, values in sections.items():
        replaced[section] = {**replaced.get(section, {}), **values}
    updated = {key: getattr(config, key).model_copy(update=values) for key, values in replaced.items()}
    return config.model_copy(update={"name": name, "runs_directory": str(directory), **updated})


@dataclass(frozen=True)
class Trial:
    """One launch below the run's directory: `config` is the user's, but for what is saved and recorded."""

    config: RunConfig
    cluster: ClusterConfig
    output: TextIO
    """Where the launch's own output goes."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the launch gets on top of the caller's."""

    @property
    def run(self) -> RunDirectory:
        """Its directory."""
        return RunDirectory(Path(self.config.runs_directory) / self.config.name)

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint of `step`."""
        return step_directory(self.run.checkpoints, step)

    def remove_checkpoints(self) -> None:
        """Remove what is large of it."""
        checkpoints = self.run.checkpoints
        if checkpoints.is_symlink():
            shutil.rmtree(checkpoints.readlink(), ignore_errors=True)
            checkpoints.unlink()
        shutil.rmtree(checkpoints, ignore_errors=True)

    @contextmanager
    def launched(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Type `llama-dist launch`, so to say; stop it when the block ends. It ends with this process in any case."""
        run_file = self.run.path.with_suffix(".yaml")
        cluster_file = self.run.path.with_suffix(".cluster.yaml")
        write_config(run_file, self.config)
        write_yaml(cluster_file, self.cluster.model_dump(mode="json"))
        launch = (sys.executable, "-m", "launcher", "launch", str(run_file), "--cluster", str(cluster_file))
        process = subprocess.Popen(
            tied_command(None, launch),
            env={**os.environ, **self.environment, PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=self.output,
        )
        try:
            yield process
        finally:
            _stop(process)


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
