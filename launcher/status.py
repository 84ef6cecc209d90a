"""What a run is doing, from the files of its directory; Slurm is asked for a job that may wait. Changes nothing."""

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.agent_log import read_tail
from launcher.attempt_files import attempt_numbers
from launcher.lease import is_live
from launcher.lease_record import read_lease
from launcher.queued_state import QUEUED, state_in_queue
from launcher.records import (
    TERMINAL_STATES,
    SupervisorRecord,
    process_is_alive,
    read_heartbeats,
    read_json,
    read_supervisor,
)
from launcher.torchrun_attempt import end_under_torchrun, read_torchrun_attempt
from llama_dist.checkpoint.manifest import list_steps
from llama_dist.config import RunDirectory

_SPOOL_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RankStatus:
    """One rank of the newest attempt, at its last sign of life."""

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    heartbeat_age_seconds: float
    alive: bool | None
    """None for a rank of another host."""


@dataclass(frozen=True)
class RunStatus:
    """A run at this moment. `state` is the supervisor's, `lost` where that is gone, `new` before the first attempt.

    `queued` is one that waits as a Slurm job, before its first attempt or between two.
    """

    run: str
    run_directory: str
    state: str
    reason: str
    exit_code: int | None
    supervisor_pid: int | None
    supervisor_host: str | None
    attempt: int
    num_earlier_attempts: int
    """By restarts and by launches alike."""

    cause: str | None
    """What ended the newest attempt that failed."""

    newest_checkpoint_step: int | None
    ranks: tuple[RankStatus, ...]
    last_metrics: dict[str, Any] | None
    past_attempts: tuple[dict[str, Any], ...]


def read_status(run: RunDirectory) -> RunStatus:
    """Gather the status; what is absent or half-written is left empty.

    A supervisor on a host whose clock differs much is watched for some seconds, to see whether it lives.
    """
    supervisor = read_supervisor(run.supervisor)
    numbers = attempt_numbers(run)
    attempt = numbers[-1] if numbers else 0
    torchrun = read_torchrun_attempt(run, supervisor)
    supervisor = None if torchrun else supervisor
    end = torchrun or supervisor
    told = (torchrun.state, torchrun.reason) if torchrun else _state(run, supervisor)
    state, reason = state_in_queue(run, *told)
    is_over = state in (*TERMINAL_STATES, "lost", QUEUED)
    is_live_now = supervisor is not None and not is_over
    past = tuple(_past_attempt(run, number, may_live=number == attempt and not is_over) for number in numbers)
    return RunStatus(
        run=run.name,
        run_directory=str(run.path),
        state=state,
        reason=reason,
        exit_code=end.exit_code if end and state != QUEUED else None,
        supervisor_pid=supervisor.pid if supervisor and is_live_now else None,
        supervisor_host=supervisor.host if supervisor and is_live_now else None,
        attempt=attempt,
        num_earlier_attempts=max(0, len(numbers) - 1),
        cause=next((each["cause"] for each in reversed(past) if each.get("cause")), None),
        newest_checkpoint_step=max(list_steps(run.checkpoints), default=None),
        ranks=_ranks(run, attempt),
        last_metrics=last_metrics(run.spool),
        past_attempts=past,
    )


def last_metrics(spool: Path) -> dict[str, Any] | None:
    """Return the last whole line of the spool; half a line, being written, is passed over."""
    for line in reversed(read_tail(spool, _SPOOL_TAIL_BYTES).splitlines()):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            return values
    return None


def _state(run: RunDirectory, supervisor: SupervisorRecord | None) -> tuple[str, str]:
    if supervisor is None:
        return "new", "no attempt was made yet"
    if supervisor.state in TERMINAL_STATES:
        return supervisor.state, supervisor.reason
    if supervisor.host == socket.gethostname():
        if not process_is_alive(supervisor.pid, supervisor.create_time):
            return "lost", f"supervisor {supervisor.pid} is gone without a word: `llama-dist launch` continues the run"
    elif (owner := read_lease(run)) and not is_live(run, owner):
        return "lost", (
            f"supervisor {supervisor.pid} on host {supervisor.host} does not renew its lease any more: `llama-dist "
            f"launch` takes the run over, once it has seen no sign of life for {owner.duration_seconds:.0f} s"
        )
    return supervisor.state, supervisor.reason


def _ranks(run: RunDirectory, attempt: int) -> tuple[RankStatus, ...]:
    now, here = time.time(), socket.gethostname()
    return tuple(
        RankStatus(
            rank=rank,
            host=beat.host,
            pid=beat.pid,
            step=beat.step,
            phase=beat.phase,
            heartbeat_age_seconds=max(0.0, now - beat.time),
            alive=process_is_alive(beat.pid, beat.create_time) if beat.host == here else None,
        )
        for rank, beat in sorted(read_heartbeats(run.heartbeats).items())
        if beat.attempt == attempt
    )


def _past_attempt(run: RunDirectory, number: int, *, may_live: bool) -> dict[str, Any]:
    """How it ended: by its supervisor, by its ranks under torchrun, or untold. Without a reason while it may live."""
    values = read_json(run.attempt_end(number))
    if values is None and not may_live:
        told = end_under_torchrun(run, number)
        values = told or {"exit_code": None, "reason": "no end was recorded: its supervisor was lost"}
    return {"attempt": number, **(values or {})}
