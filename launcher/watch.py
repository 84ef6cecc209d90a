"""Looks after one running attempt until it has ended: output, stops, saves, hangs, nodes that come back.

Decides nothing about the run: what it saw is in the answer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from launcher.backend import Backend, RunningAttempt
from launcher.console import Console, Follower
from launcher.errors import LeaseLostError
from launcher.hang_verdict import Verdict
from launcher.lease import Lease
from launcher.stop_request import StopRequest

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Watched:
    """How an attempt ended. `hang` says who hung, empty where nobody did; `hung_ranks` are those that stand out."""

    agent_status: int
    hang: str
    hung_ranks: tuple[int, ...]
    is_resized: bool
    """Whether its ranks were asked to leave so that more nodes can join."""


class AttemptWatch:
    """Watches one attempt. `look_for_hang` answers the verdict about a hang, once, or nothing."""

    def __init__(
        self, attempt: RunningAttempt, backend: Backend, stop: StopRequest, console: Console, lease: Lease
    ) -> None:
        self._attempt, self._backend, self._stop, self._console = attempt, backend, stop, console
        self._lease = lease
        self._hang: Verdict | None = None
        self._is_resized = False
        self._deadline = float("inf")

    def watch(self, output: Follower, grace_seconds: float, look_for_hang: Callable[[], Verdict | None]) -> Watched:
        """Return once the attempt has ended. Raises LeaseLostError while ranks may run: the caller ends them."""
        while (status := self._attempt.poll()) is None:
            if self._lease.is_lost:
                raise LeaseLostError(self._lease.lost_because)
            output.show_new()
            self._take_wishes(grace_seconds)
            self._take_hang(look_for_hang)
            if time.monotonic() > self._deadline or self._stop.is_urgent:
                self._console.say("ending the ranks without waiting any longer; the newest checkpoint is kept")
                self._attempt.end_now()
            time.sleep(_POLL_SECONDS)
        output.show_new()
        if self._hang is None:
            return Watched(status, "", (), self._is_resized)
        return Watched(status, self._hang.sentence, self._hang.ranks, self._is_resized)

    def _take_hang(self, look_for_hang: Callable[[], Verdict | None]) -> None:
        """End the attempt if it hangs; not where a node is silent, which is then lost, or where it ends anyway."""
        if self._hang or self._stop.is_asked or not self._attempt.is_heard():
            return
        self._hang = look_for_hang()
        if self._hang:
            self._console.say(f"{self._hang.sentence}; ending the attempt")
            self._attempt.end_now()

    def _take_wishes(self, grace_seconds: float) -> None:
        self._stop.look()
        if self._stop.take_save():
            self._console.say(f"asked to save: {self._attempt.ask_to_save()} rank(s) save and go on")
        is_leaving = self._deadline != float("inf")
        if self._stop.is_urgent:
            self._is_resized = False  # whoever leaves now was stopped
        elif self._stop.is_asked and not (is_leaving and not self._is_resized):
            self._is_resized = False
            self._leave(f"asked to stop ({self._stop.signal_name})", grace_seconds)
        elif not is_leaving and self._backend.has_more_nodes():
            self._is_resized = True
            self._leave("nodes have come back", grace_seconds)

    def _leave(self, why: str, grace_seconds: float) -> None:
        self._deadline = time.monotonic() + grace_seconds
        count = self._attempt.ask_to_stop()
        again = "" if self._is_resized else "; ask again to end them now"
        self._console.say(f"{why}: {count} rank(s) save and end, in {grace_seconds:.0f} s at most{again}")
