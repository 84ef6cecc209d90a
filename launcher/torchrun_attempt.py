"""The newest attempt of a run where torchrun supervises it, from the files of its ranks: no supervisor writes any."""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.attempt_files import attempt_numbers
from launcher.records import (
    ExitRecord,
    Heartbeat,
    SupervisorRecord,
    process_is_alive,
    read_exit_records,
    read_heartbeats,
    read_json,
)
from llama_dist.config import RunDirectory
from llama_dist.exit_codes import ExitCode

TOKEN_NAME = "torchrun.json"  # noqa: S105 - the name of a file; it holds no secret

_SILENT_SECONDS = 600.0  # a rank of another host beats at each step and phase; a save or a compilation takes minutes
_QUIET_CODES = (ExitCode.DONE, ExitCode.STOPPED)


@dataclass(frozen=True)
class TorchrunAttempt:
    """An attempt that torchrun supervises, at this moment."""

    number: int
    state: str
    """`running` while a rank may live, else `done`, `stopped`, `failed`, or `lost` where no rank told how it ended."""

    reason: str
    exit_code: int | None
    processes_here: tuple[tuple[int, float], ...]
    """Pid and start time of its ranks that live on this host."""

    hosts: tuple[str, ...]
    """Where its live ranks are."""


def read_torchrun_attempt(run: RunDirectory, supervisor: SupervisorRecord | None) -> TorchrunAttempt | None:
    """Return the newest attempt where torchrun began it; None where a supervisor of our own did, or took over since."""
    number = max(attempt_numbers(run), default=0)
    begun = read_json(run.attempt(number) / TOKEN_NAME) if number else None
    if begun is None or (supervisor is not None and supervisor.attempt >= number):
        return None
    ends = read_exit_records(run.attempt(number) / "exits")
    here = socket.gethostname()
    beats = {rank: beat for rank, beat in read_heartbeats(run.heartbeats).items() if beat.attempt == number}
    processes = {(beat.pid, beat.create_time) for rank, beat in beats.items() if beat.host == here and rank not in ends}
    if begun.get("host") == here and 0 not in beats and 0 not in ends:  # rank 0 has not come as far as its first beat
        processes |= {(int(begun["pid"]), float(begun["create_time"]))}
    alive = tuple(sorted(one for one in processes if process_is_alive(*one)))
    elsewhere = {beat.host for rank, beat in beats.items() if rank not in ends and _may_live_elsewhere(beat, here)}
    if alive or elsewhere:
        hosts = (*((here,) if alive else ()), *sorted(elsewhere))
        reason = f"started by torchrun, which supervises it, on {', '.join(hosts)}"
        return TorchrunAttempt(number, "running", reason, None, alive, hosts)
    state, reason, code = _end(ends, _world_size(run, number))
    return TorchrunAttempt(number, state, f"started by torchrun: {reason}", code, (), ())


def end_under_torchrun(run: RunDirectory, number: int) -> dict[str, object] | None:
    """How an attempt that is over ended by what its ranks said; None where torchrun did not begin it."""
    if read_json(run.attempt(number) / TOKEN_NAME) is None:
        return None
    _, reason, code = _end(read_exit_records(run.attempt(number) / "exits"), _world_size(run, number))
    return {"exit_code": code, "reason": f"started by torchrun: {reason}"}


def _may_live_elsewhere(beat: Heartbeat, here: str) -> bool:
    return beat.host != here and abs(time.time() - beat.time) < _SILENT_SECONDS


def _world_size(run: RunDirectory, number: int) -> int:
    size = (read_json(run.attempt(number) / "plan.json") or {}).get("world_size")
    return size if isinstance(size, int) else 1


def _end(ends: Mapping[int, ExitRecord], world_size: int) -> tuple[str, str, int | None]:
    """State, reason and code of an attempt that is over. Who lost a peer (75) is named last: another ended first."""
    silent = [rank for rank in range(world_size) if rank not in ends]
    if not ends:
        return "lost", "its ranks are gone without a word: start it again to continue the run", None
    failed = sorted(
        (one for one in ends.values() if one.exit_code not in _QUIET_CODES),
        key=lambda one: (one.exit_code == ExitCode.RETRY, one.time),
    )
    if silent and (not failed or failed[0].exit_code == ExitCode.RETRY):
        return "failed", f"rank(s) {', '.join(map(str, silent))} ended without a word", int(ExitCode.RETRY)
    if failed:
        lines = failed[0].reason.strip().splitlines() or [""]
        return "failed", f"rank {failed[0].rank} ended with {failed[0].exit_code}: {lines[-1]}", failed[0].exit_code
    stopped = [one for one in ends.values() if one.exit_code == ExitCode.STOPPED]
    if stopped:
        return "stopped", stopped[0].reason, int(ExitCode.STOPPED)
    return "done", "every rank reached the last step", int(ExitCode.DONE)
