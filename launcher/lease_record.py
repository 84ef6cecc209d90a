"""What a lease says on disk, and who may write which file. Decides nothing about life and death: `lease.py` does.

`leases/00000007.json` is the seventh lease of the run. A number is created once, by whoever comes first (link(2) makes
one of two win, on network file systems too); from then on its owner alone rewrites it. The highest number counts.
"""

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from launcher.records import process_is_alive, read_record
from llama_dist.config import RunDirectory

_NUM_DIGITS = 8
_NUM_TRIES = 3


@dataclass(frozen=True)
class LeaseRecord:
    """One lease."""

    token: str
    """Random: tells two leases of the same number apart, should the directory be restored from a copy."""

    host: str
    pid: int
    create_time: float

    place: str
    """The kernel's boot and the process namespace, in which `pid` means something: host names may be alike."""

    attempt: int
    since: float
    renewed: float
    """Seconds since 1970 by the owner's clock: for people, no decision depends on it."""

    renewals: int
    duration_seconds: float
    is_released: bool

    @property
    def owner(self) -> str:
        """For messages."""
        return f"pid {self.pid} on {self.host}, attempt {self.attempt}"

    def owner_is_gone(self) -> bool:
        """Whether the owner was a process of this very system, and is no more."""
        return self.place == this_place() and not process_is_alive(self.pid, self.create_time)

    def renewed_now(self, attempt: int) -> "LeaseRecord":
        """Return it with a sign of life, which differs from every one before."""
        return replace(self, attempt=attempt, renewed=time.time(), renewals=self.renewals + 1)


def new_record(duration_seconds: float) -> LeaseRecord:
    """Return a lease of this process."""
    now = time.time()
    return LeaseRecord(
        token=secrets.token_hex(16),
        host=socket.gethostname(),
        pid=os.getpid(),
        create_time=psutil.Process().create_time(),
        place=this_place(),
        attempt=0,
        since=now,
        renewed=now,
        renewals=0,
        duration_seconds=duration_seconds,
        is_released=False,
    )


def this_place() -> str:
    """Return what names the running kernel, and the namespace that gives process numbers their meaning."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def newest_number(run: RunDirectory) -> int:
    """Return the number of the lease that counts; 0 where there was none. Raises OSError."""
    try:
        names = os.listdir(run.leases)  # noqa: PTH208 - opens the directory, so that a file server is asked
    except FileNotFoundError:
        return 0
    return max((int(name[:_NUM_DIGITS]) for name in names if _is_lease(name)), default=0)


def read_lease(run: RunDirectory) -> LeaseRecord | None:
    """Return the lease that counts, also one that was released or whose owner is gone; None where there is none."""
    for _ in range(_NUM_TRIES):  # a newer one may take its place between two calls
        with contextlib.suppress(OSError):
            number = newest_number(run)
            record = read_record(LeaseRecord, lease_path(run, number))
            if record or not number:
                return record
    return None


def create_lease(run: RunDirectory, number: int, record: LeaseRecord) -> bool:
    """Create the lease of that number; False where another one was faster. Raises OSError."""
    run.leases.mkdir(mode=0o700, exist_ok=True)
    beside = _write_beside(run, number, record)
    try:
        os.link(beside, lease_path(run, number))
    except FileExistsError:
        # A file server may have done it, and its answer have been lost: then the file has two names.
        if beside.stat().st_nlink != 2:
            return False
    finally:
        beside.unlink()
    _remove_before(run, number)
    return True


def rewrite_lease(run: RunDirectory, number: int, record: LeaseRecord) -> None:
    """Replace the lease's content; for its owner alone. Raises OSError."""
    _write_beside(run, number, record).replace(lease_path(run, number))


def lease_path(run: RunDirectory, number: int) -> Path:
    """File of the lease of that number."""
    return run.leases / f"{number:0{_NUM_DIGITS}d}.json"


def _write_beside(run: RunDirectory, number: int, record: LeaseRecord) -> Path:
    beside = run.leases / f".{number:0{_NUM_DIGITS}d}.{record.token}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
        file.flush()
        os.fsync(descriptor)  # a renewal that no other host can see is none
    return beside


def _remove_before(run: RunDirectory, number: int) -> None:
    """Remove older leases. Their owners see by the newer one that they have lost."""
    for path in run.leases.iterdir():
        if _is_lease(path.name) and int(path.stem) < number:
            path.unlink(missing_ok=True)


def _is_lease(name: str) -> bool:
    number, _, suffix = name.partition(".")
    return suffix == "json" and number.isdecimal() and len(number) == _NUM_DIGITS
