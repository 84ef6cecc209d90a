"""Stops a run that torchrun supervises, on a host where some of its ranks live. One rank asked is all of them asked."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterable

import psutil

from launcher.console import Console
from launcher.errors import LiveRunError
from launcher.records import SupervisorRecord, process_is_alive, read_supervisor
from launcher.stop_request import ECHO_SECONDS
from launcher.torchrun_attempt import TorchrunAttempt, read_torchrun_attempt
from llama_dist.config import RunDirectory

_POLL_SECONDS = 0.1
_TORCHRUN_ENDS_SECONDS = 1.0

Process = tuple[int, float]
"""Pid and start time."""


def stop_under_torchrun(
    run: RunDirectory, supervisor: SupervisorRecord | None, seconds: float, console: Console, *, now: bool
) -> bool:
    """Stop what torchrun runs and return when it has ended; False where torchrun runs nothing of this run.

    Raises LiveRunError where it has no rank on this host, or goes on.
    """
    attempt = read_torchrun_attempt(run, supervisor)
    if attempt is None or attempt.state != "running":
        return False
    if not attempt.processes_here:
        raise LiveRunError(
            f"run `{run.name}` is {attempt.reason}, and this is {socket.gethostname()}: stop it there, by `llama-dist "
            "stop` or a signal to torchrun"
        )
    agents = {agent for process in attempt.processes_here if (agent := _torchrun_of(process))}
    would_restart = any(map(_has_restarts_left, attempt.processes_here))
    _signal(attempt.processes_here)
    if now:
        time.sleep(ECHO_SECONDS + _POLL_SECONDS)
        _signal(attempt.processes_here)  # a second one ends a rank at once
    told = "end" if now else "save and leave"
    console.say(f"run `{run.name}`: asked {len(attempt.processes_here)} rank(s) of torchrun to {told}")
    deadline = time.monotonic() + seconds
    while _is_running(run, attempt):
        if time.monotonic() > deadline:
            raise _goes_on(run, attempt)
        time.sleep(_POLL_SECONDS)
    # By itself torchrun ends at once; one with restarts left is starting the ranks again by now, and is ended first.
    if would_restart or not _wait_for_end(agents, time.monotonic() + _TORCHRUN_ENDS_SECONDS):
        _signal(agents)  # once: a second signal would break off how it ends its ranks
        if not _wait_for_end(agents, deadline):
            raise _goes_on(run, attempt)
    return True


def _wait_for_end(processes: Iterable[Process], deadline: float) -> bool:
    while any(process_is_alive(*one) for one in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _is_running(run: RunDirectory, attempt: TorchrunAttempt) -> bool:
    current = read_torchrun_attempt(run, read_supervisor(run.supervisor))
    return current is not None and current.number == attempt.number and current.state == "running"


def _goes_on(run: RunDirectory, attempt: TorchrunAttempt) -> LiveRunError:
    return LiveRunError(
        f"run `{run.name}` goes on though its ranks were asked to stop ({attempt.reason}): end torchrun itself there"
    )


def _torchrun_of(process: Process) -> Process | None:
    """The torchrun that started a rank, where that still is its parent."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(process[0]).parent()
        if parent and any("torchrun" in word or "torch.distributed" in word for word in parent.cmdline()):
            return parent.pid, parent.create_time()
    return None


def _has_restarts_left(process: Process) -> bool:
    """Whether torchrun would start the rank again, by the variables that it gave it."""
    with contextlib.suppress(psutil.Error, ValueError):
        told = psutil.Process(process[0]).environ()
        return int(told.get("TORCHELASTIC_RESTART_COUNT", 0)) < int(told.get("TORCHELASTIC_MAX_RESTARTS", 0))
    return False


def _signal(processes: Iterable[Process]) -> None:
    for pid, create_time in processes:
        if process_is_alive(pid, create_time):
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).send_signal(signal.SIGTERM)
