"""What `status` and `stop` say of a run that waits as a Slurm job: it has no supervisor, and yet will go on."""

import time

from launcher.console import Console
from launcher.queued_job import QueuedJob, QueueSilentError, cancel_job, noted_job, queued_job
from llama_dist.config import RunDirectory

QUEUED = "queued"
_MAY_GO_ON = frozenset({"new", "lost", "stopped", "failed"})
_JOB_ENDS_SECONDS = 90.0  # after the supervisor: 60 s of the shipper's last flush, and Slurm clears the nodes
_POLL_SECONDS = 0.5


def state_in_queue(run: RunDirectory, state: str, reason: str) -> tuple[str, str]:
    """Return state and reason of a run by its files, or those of its job where it waits as one."""
    number = noted_job(run)
    if number is None or state not in _MAY_GO_ON:
        return state, reason
    try:
        job = queued_job(run)
    except QueueSilentError as error:
        return state, f"{reason}; whether it is queued as Slurm job {number} is not known: {error}"
    if job is None:
        return state, f"{reason}; its Slurm job {number} is over" if state == "new" else reason
    if not job.is_waiting:
        return state, f"{reason}; Slurm job {number} is {job.state}"
    before = "" if state == "new" else f"; before that {state}: {reason}"
    again = "" if state == "new" else "again "
    held = "" if job.state == "PENDING" else f" ({job.state})"
    return QUEUED, f"queued {again}as Slurm job {number}{held}{before}"


def cancel_queued(run: RunDirectory, state: str, console: Console) -> bool:
    """Cancel the job of a run without a supervisor; answers whether there was one.

    Raises SubmissionError where Slurm does not cancel it, or does not say whether it has it: the run may go on.
    """
    number = noted_job(run)
    if number is None or state not in (*_MAY_GO_ON, QUEUED):
        return False
    try:
        job = queued_job(run)
    except QueueSilentError as error:
        raise QueueSilentError(
            f"run `{run.name}` was submitted as Slurm job {number}, and whether that is still queued is not known "
            f"({error}): on a machine of that cluster, end it with `scancel {number}`"
        ) from None
    if job:
        _cancel(run, job, console)
    return job is not None


def hold_back_job(run: RunDirectory, console: Console) -> None:
    """Wait until the job of a run that was just stopped is over; cancel it where it is queued again instead.

    It asks for that itself where its end was near anyway. Raises SubmissionError where Slurm does not cancel it.
    """
    number, deadline = noted_job(run), time.monotonic() + _JOB_ENDS_SECONDS
    try:
        while job := queued_job(run):
            if job.is_waiting:
                return _cancel(run, job, console)
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return None
        told = f"still {job.state}"
    except QueueSilentError as error:
        told = f"perhaps there still ({error})"
    console.say(
        f"run `{run.name}`: its Slurm job {number} is {told}: if it is queued again, `scancel {number}` ends it"
    )
    return None


def _cancel(run: RunDirectory, job: QueuedJob, console: Console) -> None:
    cancel_job(job)
    console.say(f"run `{run.name}`: cancelled its Slurm job {job.number}, which was {job.state}")
