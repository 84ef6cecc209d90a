"""What Slurm says of a job that runs: when it ends, and whether it must make way. Asks `scontrol`; decides nothing."""

import datetime
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

_ANSWER_SECONDS = 60.0
_STATE = re.compile(r"(?:^|\s)JobState=(\S+)")
_END = re.compile(r"(?:^|\s)EndTime=(\S+)")
_PREEMPTED = re.compile(r"(?:^|\s)PreemptTime=(\S+)")


@dataclass(frozen=True)
class SlurmJob:
    """A job that this process belongs to."""

    is_running: bool
    """Whether Slurm lets it run; it does not once the job was cancelled, is queued again or out of time."""

    end_time: float | None
    """Unix time at which Slurm ends it; None where it has no limit, or Slurm did not say."""

    is_preempted: bool
    """Whether another job takes its nodes: it is in its grace time."""


def read_job(text: str) -> SlurmJob:
    """Read what `scontrol show job` prints, its times in standard form."""
    state, end, preempted = _STATE.search(text), _END.search(text), _PREEMPTED.search(text)
    return SlurmJob(
        is_running=state is not None and state[1] == "RUNNING",
        end_time=_unix_time(end[1]) if end else None,
        is_preempted=preempted is not None and preempted[1] != "None",
    )


def ask_job(job: str) -> SlurmJob:
    """Ask Slurm; nothing is known of the job where it does not answer."""
    return read_job(_scontrol("show", "job", job, "--oneliner"))


def requeue_job(job: str) -> None:
    """Queue a running job again: Slurm ends it, and this process with it where it belongs to the job."""
    _scontrol("requeue", job)


def _scontrol(*arguments: str) -> str:
    program = shutil.which("scontrol") or "/usr/bin/scontrol"
    try:
        done = subprocess.run(
            [program, *arguments],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_ANSWER_SECONDS,
            env=os.environ | {"SLURM_TIME_FORMAT": "standard"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _unix_time(text: str) -> float | None:
    """Slurm tells local time."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
