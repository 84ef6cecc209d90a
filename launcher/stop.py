"""The `stop` verb: asks a live supervisor, on whichever host, to let its ranks save and end, and waits until it has."""

import contextlib
import time

import psutil

from launcher.console import Console
from launcher.errors import LiveRunError, RunDirectoryError
from launcher.lease import is_live
from launcher.lease_record import LeaseRecord, read_lease
from launcher.queued_state import cancel_queued, hold_back_job
from launcher.records import SupervisorRecord, process_is_alive, read_supervisor
from launcher.run_lock import live_owner, live_supervisor_pid
from launcher.status import read_status
from launcher.stop_request import ECHO_SECONDS, request_stop
from launcher.stop_torchrun import stop_under_torchrun
from llama_dist.config import RunDirectory, load_run_config

_POLL_SECONDS = 0.1
_TORCHRUN_SECONDS = 30.0  # beyond the ranks' grace, for torchrun to see that they have ended
_SUPERVISOR_SECONDS = 100.0  # beyond the ranks' grace: 30 s of the agent's own, 60 s of the shipper's last flush


def stop_run(run: RunDirectory, console: Console, *, now: bool = False) -> None:
    """Stop the run if it is live; with `now`, without a save. Returns when its supervisor has ended, and its Slurm job.

    The job of a run that waits as one is cancelled. Raises LiveRunError where a supervisor on another host does not
    end, RunDirectoryError where it cannot be asked, SubmissionError where Slurm cancels no job or does not answer.
    """
    record, pid = read_supervisor(run.supervisor), live_supervisor_pid(run)
    grace = 0.0 if now else _grace_seconds(run)
    if record is not None and pid is not None:
        _stop_here(run, record, grace, console, now=now)
    elif stop_under_torchrun(run, record, grace + _TORCHRUN_SECONDS, console, now=now):
        pass
    elif owner := _owner_elsewhere(run):
        _stop_elsewhere(run, owner, grace, console, now=now)
    else:
        state = read_status(run).state
        if not cancel_queued(run, state, console):
            console.say(f"run `{run.name}` is not live ({state}): nothing to stop")
        return
    hold_back_job(run, console)
    ended = read_status(run)
    console.say(f"run `{run.name}`: {ended.state}: {ended.reason}")


def _owner_elsewhere(run: RunDirectory) -> LeaseRecord | None:
    """Return the live owner, but of no run that has written down its end and only lets go of it."""
    return live_owner(run) if read_status(run).supervisor_pid is not None else None


def _stop_here(
    run: RunDirectory, record: SupervisorRecord, grace_seconds: float, console: Console, *, now: bool
) -> None:
    _ask_here(run, record.pid, now=now)
    told = "end its ranks" if now else f"stop; its ranks may save for {grace_seconds:.0f} s"
    console.say(f"run `{run.name}`: asked supervisor {record.pid} to {told}")
    if not _wait_for_end(record, grace_seconds + _SUPERVISOR_SECONDS):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(record.pid).kill()  # its ranks are tied to it and end with it
        _wait_for_end(record, _SUPERVISOR_SECONDS)
        console.say(f"supervisor {record.pid} did not end and was killed, with its ranks")


def _ask_here(run: RunDirectory, pid: int, *, now: bool) -> None:
    """Ask by a signal, which needs no disk; for an end without a save by the file, or two signals where it is full."""
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself just now
        if now:
            with contextlib.suppress(OSError):
                request_stop(run.stop_request, now=True)
                return
            psutil.Process(pid).terminate()
            time.sleep(ECHO_SECONDS + _POLL_SECONDS)
        psutil.Process(pid).terminate()


def _stop_elsewhere(
    run: RunDirectory, owner: LeaseRecord, grace_seconds: float, console: Console, *, now: bool
) -> None:
    try:
        request_stop(run.stop_request, now=now)
    except OSError as error:
        raise RunDirectoryError(
            f"{run.stop_request}: cannot be written: {error.strerror}: stop the run on its host, {owner.host}"
        ) from None
    told = "end its ranks" if now else f"stop; its ranks may save for {grace_seconds:.0f} s"
    console.say(f"run `{run.name}`: asked supervisor {owner.pid} on host {owner.host} to {told}")
    deadline = time.monotonic() + grace_seconds + _SUPERVISOR_SECONDS
    try:
        while (current := read_lease(run)) and current.token == owner.token and is_live(run, current):
            if time.monotonic() > deadline:
                raise LiveRunError(
                    f"run `{run.name}`: supervisor {owner.pid} on host {owner.host} renews its lease and does not end: "
                    "end that process there; its ranks end with it"
                )
            time.sleep(_POLL_SECONDS)
    finally:
        with contextlib.suppress(OSError):  # not taken up: the next supervisor must not find it
            run.stop_request.unlink()


def _grace_seconds(run: RunDirectory) -> float:
    attempt = read_status(run).attempt
    return load_run_config(run.attempt_config(attempt)).supervision.stop_grace_seconds if attempt else 0.0


def _wait_for_end(record: SupervisorRecord, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process_is_alive(record.pid, record.create_time):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
