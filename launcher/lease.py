"""The lease on a run: one supervisor over all hosts that share the run's directory, renewed while it lives.

A lease is expired when its file did not change for its duration by the clock of the one who looks, so that hosts whose
clocks differ judge alike. An owner that could not renew it in time, or finds a newer one, has lost it: it ends its
ranks and writes nothing more.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from launcher.errors import LeaseLostError, LiveRunError
from launcher.lease_record import (
    LeaseRecord,
    create_lease,
    lease_path,
    new_record,
    newest_number,
    read_lease,
    rewrite_lease,
)
from llama_dist.config import RunDirectory
from llama_dist.exit_codes import ExitCode

_RENEWALS_PER_DURATION = 12  # several may fail before one is missed
_LONGEST_INTERVAL_SECONDS = 5.0
_OWN_SHARE = 0.8  # the owner gives up this much earlier than another may begin: its ranks take a moment to end
_REACTION_SHARE = 0.1  # the owner is ended where it does not see its loss, before another may begin as well
_LONGEST_REACTION_SECONDS = 10.0
_POLL_SECONDS = 0.1
_POLLS_PER_DURATION = 100  # of a short lease, so that what is left of it is not spent on waiting


class Lease:
    """A lease that this process holds, with the threads that renew and watch it."""

    def __init__(self, run: RunDirectory, number: int, record: LeaseRecord, leave: Callable[[], None]) -> None:
        """Begin to renew. `leave` ends the process where its owner does not see in time that the lease is lost."""
        self.attempt = 0
        """Number that the lease shows to others; the owner keeps it up to date."""

        self._run, self._number, self._record, self._leave = run, number, record, leave
        self._renewed_at = time.monotonic()
        self._lost_because = ""
        self._ended, self._lost = threading.Event(), threading.Event()
        self._interval = renewal_interval(record.duration_seconds)
        # Two: the one that renews may hang in a disk that does not answer.
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._renew, self._watch)]
        for thread in self._threads:
            thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether the run is another's, or may be by now. Asks no disk."""
        if not self._lost.is_set() and time.monotonic() - self._renewed_at > self._own_seconds:
            self._lose(
                f"the lease on run `{self._run.name}` could not be renewed for {self._own_seconds:.0f} s: "
                f"{self._run.leases} does not answer or this host stood still, and another host may go on with the run"
            )
        return self._lost.is_set()

    @property
    def lost_because(self) -> str:
        """What happened to it; empty while it is held."""
        return self._lost_because

    def check(self) -> None:
        """Look whether this is still the newest lease, before a write that only its owner may do.

        Raises LeaseLostError; OSError where the disk does not answer.
        """
        if not self.is_lost and newest_number(self._run) != self._number:
            self._lose_to_newer()
        if self.is_lost:
            raise LeaseLostError(self._lost_because)

    def release(self) -> None:
        """Give it back: the run may be launched again at once. A lost one is left alone."""
        self._ended.set()
        self._threads[0].join(self._interval)  # a renewal under way comes first
        if not self._lost.is_set():
            with contextlib.suppress(OSError, LeaseLostError):
                self.check()
                released = replace(self._record.renewed_now(self.attempt), is_released=True)
                rewrite_lease(self._run, self._number, released)

    @property
    def _own_seconds(self) -> float:
        return _OWN_SHARE * self._record.duration_seconds

    def _renew(self) -> None:
        while not self._ended.wait(self._interval) and not self.is_lost:
            began = time.monotonic()
            with contextlib.suppress(OSError):  # the time without a renewal decides
                if newest_number(self._run) != self._number:
                    self._lose_to_newer()
                    return
                self._record = self._record.renewed_now(self.attempt)
                rewrite_lease(self._run, self._number, self._record)
                self._renewed_at = began

    def _watch(self) -> None:
        duration = self._record.duration_seconds
        while not self._ended.wait(min(_POLL_SECONDS, duration / _POLLS_PER_DURATION)):
            if self.is_lost:
                if not self._ended.wait(min(_LONGEST_REACTION_SECONDS, _REACTION_SHARE * duration)):
                    self._leave()  # the kernel ends the ranks with it
                return

    def _lose_to_newer(self) -> None:
        if newest_number(self._run) < self._number:
            self._lose(
                f"run `{self._run.name}`: its lease is gone from {self._run.leases}: was the run directory deleted, or "
                "replaced by an older copy? Its ranks are ended and nothing more is written"
            )
            return
        owner = read_lease(self._run)
        who = f"supervisor {owner.owner}" if owner else "another supervisor"
        self._lose(
            f"run `{self._run.name}` was taken over by {who}, since this one had not renewed its lease for "
            f"{self._record.duration_seconds:.0f} s; its ranks are ended and nothing more is written: see it with "
            f"`llama-dist status {self._run.path}`"
        )

    def _lose(self, because: str) -> None:
        if not self._lost.is_set():
            self._lost_because = because
            self._lost.set()


def acquire_lease(
    run: RunDirectory,
    duration_seconds: float,
    tell: Callable[[str], None] = lambda _: None,
    leave: Callable[[], None] = lambda: os._exit(ExitCode.RETRY),
) -> Lease:
    """Take the run for this process, waiting until an owner that gives no sign of life is expired.

    `tell` gets a line where that takes a while. Raises LiveRunError where the owner lives, OSError for the disk.
    """
    while True:
        number = wait_for_owner(run, duration_seconds, tell)
        record = new_record(duration_seconds)
        if create_lease(run, number + 1, record):
            return Lease(run, number + 1, record, leave)
        # Another one was faster: it is the owner to look at.


def wait_for_owner(run: RunDirectory, unknown_seconds: float, tell: Callable[[str], None]) -> int:
    """Wait until the newest lease binds nobody, and answer its number; 0 where there is none.

    One that cannot be read may be a live supervisor's behind a disk that fails: it is given `unknown_seconds` to become
    readable. Raises LiveRunError where the owner lives, OSError for the disk.
    """
    number = newest_number(run)
    owner = read_lease(run)
    if number and owner is None:
        tell(f"{lease_path(run, number)} cannot be read: waiting up to {unknown_seconds:.0f} s for whoever may hold it")
        owner = _read_in_time(run, unknown_seconds)
    if owner and not owner.is_released and not owner.owner_is_gone():
        tell(f"run `{run.name}` has a supervisor, {owner.owner}: looking whether it lives")
        if shows_life(run, owner, owner.duration_seconds):
            raise LiveRunError(who_holds(run, read_lease(run) or owner))
        tell(f"it gave no sign of life for {owner.duration_seconds:.0f} s: taking the run over")
    return number


def _read_in_time(run: RunDirectory, seconds: float) -> LeaseRecord | None:
    deadline = time.monotonic() + seconds
    while (owner := read_lease(run)) is None and time.monotonic() < deadline:
        time.sleep(min(_POLL_SECONDS, seconds / 10))
    return owner


def shows_life(run: RunDirectory, owner: LeaseRecord, seconds: float) -> bool:
    """Watch the lease of `owner` until it changes, `seconds` at most; a release counts as none."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(_POLL_SECONDS, seconds / 10))
        now = read_lease(run)
        if now is not None and now != owner:
            return not now.is_released
    return False


def is_live(run: RunDirectory, owner: LeaseRecord) -> bool:
    """Whether the owner of a lease lives, as far as can be told soon: at once, but where the hosts' clocks differ."""
    if owner.is_released or owner.owner_is_gone():
        return False
    if abs(time.time() - owner.renewed) < owner.duration_seconds:
        return True
    return shows_life(run, owner, 2 * renewal_interval(owner.duration_seconds))


def who_holds(run: RunDirectory, owner: LeaseRecord) -> str:
    """Both sides of a refused launch: who holds the run, since when, and what to do."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
    return (
        f"run `{run.name}` is live (supervisor {owner.owner}, since {since}), and a run has one supervisor: "
        f"this one, pid {os.getpid()} on {os.uname().nodename}, was not started; see it with "
        f"`llama-dist status {run.path}`, end it with `llama-dist stop {run.path}`"
    )


def renewal_interval(duration_seconds: float) -> float:
    """Seconds between two renewals."""
    return min(_LONGEST_INTERVAL_SECONDS, duration_seconds / _RENEWALS_PER_DURATION)
