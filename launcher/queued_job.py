"""The Slurm job that a run was submitted as, and whether Slurm has it still: asks `squeue`, cancels by `scancel`.

Written down by the launch that submits; a job that Slurm queues again keeps its number. Submits nothing itself.
"""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass

from launcher.console import Console
from launcher.errors import LiveRunError, SubmissionError
from launcher.records import read_json, write_json
from llama_dist.config import RunDirectory

JOB_NOTE_NAME = "slurm_job.json"
_ANSWER_SECONDS = 15.0  # a controller that is away keeps squeue for some seconds and several tries
_ENDING_SECONDS = 30.0  # how long a job is given that Slurm clears away: its nodes end what is left of it
_POLL_SECONDS = 0.5
_NUMBER = re.compile(r"[0-9]{1,19}")
_STATE = re.compile(r"[A-Z_]+")
_OVER = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
    | {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
)
_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})


@dataclass(frozen=True)
class QueuedJob:
    """A job that Slurm has not done with."""

    number: str
    state: str
    """In the words of `squeue`."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has still, or again, to be started."""
        return self.state in _WAITING

    @property
    def is_ending(self) -> bool:
        """Whether Slurm clears it away; where it is to run again, it waits next."""
        return self.state == "COMPLETING"


class QueueSilentError(SubmissionError):
    """Whether Slurm still has a job cannot be told from here."""


def note_job(run: RunDirectory, number: str) -> None:
    """Write down as which job the run was submitted."""
    write_json(run.path / JOB_NOTE_NAME, {"job": number, "submitted": time.time()})


def noted_job(run: RunDirectory) -> str | None:
    """Return the number of the job that the run was last submitted as."""
    number = (read_json(run.path / JOB_NOTE_NAME) or {}).get("job")
    return number if isinstance(number, str) and _NUMBER.fullmatch(number) else None


def queued_job(run: RunDirectory) -> QueuedJob | None:
    """Ask Slurm for the job of the run; None where there is none any more. Raises QueueSilentError."""
    number = noted_job(run)
    if number is None:
        return None
    done = _ask("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={number}")
    if done.returncode != 0:
        if "Invalid job id" in done.stderr:  # Slurm has forgotten it
            return None
        raise QueueSilentError(f"squeue: {_first_line(done.stderr) or f'exit status {done.returncode}'}")
    states = [word for word in done.stdout.split() if _STATE.fullmatch(word) and word not in _OVER]
    return QueuedJob(number, states[0]) if states else None


def settled_job(run: RunDirectory) -> QueuedJob | None:
    """The same, but waits some seconds for a job that Slurm clears away. Raises QueueSilentError."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while (job := queued_job(run)) and job.is_ending and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return job


def refuse_second_job(run: RunDirectory, console: Console) -> None:
    """Raise LiveRunError while Slurm has the job of an earlier launch: two would write one run, and one request.

    Where Slurm does not say, that is told, and nothing refused: its `sbatch` may be all that a machine has.
    """
    try:
        job = settled_job(run)
    except QueueSilentError as error:
        console.say(
            f"run `{run.name}`: was submitted as Slurm job {noted_job(run)} before; whether that is still queued is "
            f"not known ({error}): if it is, cancel one of the two"
        )
        return
    if job:
        raise LiveRunError(
            f"run `{run.name}` is Slurm job {job.number} already ({job.state}), and goes on by it: to launch it with "
            f"other values, end that first with `llama-dist stop {run.path}` or `scancel {job.number}`"
        )


def cancel_job(job: QueuedJob) -> None:
    """Cancel it. Raises SubmissionError where Slurm does not."""
    done = _ask("scancel", job.number)
    if done.returncode != 0:
        raise SubmissionError(
            f"Slurm job {job.number} ({job.state}) was not cancelled: scancel: "
            f"{_first_line(done.stderr) or f'exit status {done.returncode}'}"
        )


def _ask(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs. Raises QueueSilentError where it is not there or gives no answer."""
    path = shutil.which(program)
    if path is None:
        raise QueueSilentError(f"{program}: not found on this machine")
    try:
        return subprocess.run(
            [path, *arguments],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            env=os.environ,
        )
    except subprocess.TimeoutExpired:
        raise QueueSilentError(f"{program}: no answer in {_ANSWER_SECONDS:.0f} s") from None
    except OSError as error:
        raise QueueSilentError(f"{program}: {error.strerror}") from None


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return "".join(letter for letter in line if letter.isprintable())[:200]
