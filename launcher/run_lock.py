"""One supervisor a run: a lock of this host's kernel, which goes with its holder, and a lease over all hosts."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launcher.errors import LiveRunError, RunDirectoryError
from launcher.lease import Lease, acquire_lease, is_live, wait_for_owner, who_holds
from launcher.lease_record import LeaseRecord, read_lease
from launcher.records import TERMINAL_STATES, process_is_alive, read_heartbeats, read_supervisor
from launcher.torchrun_attempt import read_torchrun_attempt
from llama_dist.config import RunDirectory

_RANKS_END_SECONDS = 10.0  # the kernel ends the ranks of a killed supervisor at once; a disk write may hold one up
_POLL_SECONDS = 0.1


@contextmanager
def lock_run(run: RunDirectory, lease_seconds: float, tell: Callable[[str], None] = lambda _: None) -> Iterator[Lease]:
    """Hold the run, renewed while the block runs; answers the lease, which its holder asks before it writes.

    Waits for an owner on another host to expire, and says so. Raises LiveRunError where another supervisor, or a rank
    of one that died, still runs.
    """
    descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(descriptor, run)
        lease = acquire_lease(run, lease_seconds, tell)
        try:
            _wait_for_old_ranks(run)
            yield lease
        finally:
            lease.release()
    finally:
        os.close(descriptor)  # drops the lock; the file stays, since removing it would let two hold different ones


def hold_lock_forever(run: RunDirectory, lease_seconds: float, tell: Callable[[str], None] = lambda _: None) -> None:
    """Hold the lock until this process ends, also as another program, which could renew no lease: it takes none.

    Waits for an owner of a lease to expire, and says so. Raises LiveRunError as `lock_run` does, and where another
    process has the lock still.
    """
    descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(descriptor, run)
        wait_for_owner(run, lease_seconds, tell)
        if not _lock(descriptor, run):
            raise _held_here(run)
        _wait_for_old_ranks(run)
    except BaseException:
        os.close(descriptor)
        raise
    os.set_inheritable(descriptor, True)


def live_owner(run: RunDirectory) -> LeaseRecord | None:
    """Return the lease of the supervisor that runs, on whichever host, or None. May watch it for some seconds."""
    owner = read_lease(run)
    return owner if owner and is_live(run, owner) else None


def live_supervisor_pid(run: RunDirectory) -> int | None:
    """Return the pid of the supervisor that runs on this host, or None."""
    record = read_supervisor(run.supervisor)
    if record is None or record.state in TERMINAL_STATES or record.host != socket.gethostname():
        return None
    return record.pid if process_is_alive(record.pid, record.create_time) else None


def _take(descriptor: int, run: RunDirectory) -> None:
    """Take the lock. Where a process of another host has it, its file server shares it, and the lease decides."""
    if _lock(descriptor, run):
        return
    owner = read_lease(run)
    if owner is None or owner.is_released or owner.owner_is_gone():
        raise _held_here(run)
    if owner.host == socket.gethostname():
        raise LiveRunError(who_holds(run, owner))


def _lock(descriptor: int, run: RunDirectory) -> bool:
    """Whether this process has the lock now. Raises RunDirectoryError where there can be none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise RunDirectoryError(
            f"{run.lock}: cannot be locked: {error.strerror}: keep runs on a file system with flock"
        ) from None
    return True


def _held_here(run: RunDirectory) -> LiveRunError:
    """Who has the lock without a lease: torchrun's rank 0, or a launch that has not come as far."""
    torchrun = read_torchrun_attempt(run, read_supervisor(run.supervisor))
    if torchrun and torchrun.state == "running":
        return LiveRunError(
            f"run `{run.name}` is live (attempt {torchrun.number}, {torchrun.reason}): see it with "
            f"`llama-dist status {run.path}`, end it with `llama-dist stop {run.path}`"
        )
    return LiveRunError(
        f"run `{run.name}` is being launched by another process just now: see `llama-dist status {run.path}`"
    )


def _wait_for_old_ranks(run: RunDirectory) -> None:
    """Wait until no rank of a supervisor that was killed is left: two writers would spoil one run."""
    deadline = time.monotonic() + _RANKS_END_SECONDS
    while pids := _live_rank_pids(run):
        if time.monotonic() > deadline:
            raise LiveRunError(
                f"run `{run.name}`: its supervisor is gone, but rank processes {pids} of it still run: end them first"
            )
        time.sleep(_POLL_SECONDS)


def _live_rank_pids(run: RunDirectory) -> list[int]:
    beats = read_heartbeats(run.heartbeats).values()
    here = socket.gethostname()
    return [beat.pid for beat in beats if beat.host == here and process_is_alive(beat.pid, beat.create_time)]
