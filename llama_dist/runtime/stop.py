"""What a rank is asked by signals: to save and leave (SIGTERM, SIGINT), or to save and go on (SIGUSR1).

Signals only leave a note; the loop looks at it once a step, and all ranks then decide together (`train/decision.py`).
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from llama_dist.exit_codes import ExitCode

# A scheduler and the supervisor may both signal a rank for one and the same stop.
_ECHO_SECONDS = 1.0

_SHORTEST_TIMER_SECONDS = 0.001  # 0 would disarm it


class StopAskedError(BaseException):
    """A stop was asked for, or the time was over, inside `StopRequest.interrupts`.

    No Exception: nothing that retries may catch it.
    """


class StopRequest:
    """The first SIGTERM or SIGINT asks to save and leave, a second one ends the process at once.

    While a rank starts there is nothing to save, and the first breaks off what it does; from `defer` on it waits until
    the loop looks at it.
    """

    def __init__(self) -> None:
        self.asked_at: float | None = None
        """`time.monotonic()` of the first signal to stop."""

        self.limit_is_reached = False
        """Whether the time that was given to `interrupts` has passed inside it."""

        self._save_is_asked = False
        self._interrupts = True

    @property
    def is_made(self) -> bool:
        """Whether a stop was asked for."""
        return self.asked_at is not None

    @property
    def seconds_ago(self) -> float:
        """Time since a stop was asked for; 0 if it was not."""
        return 0.0 if self.asked_at is None else time.monotonic() - self.asked_at

    def install(self) -> "StopRequest":
        """Listen from now on, and answer self; a stop raises StopAskedError until `defer`. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive_stop)
        signal.signal(signal.SIGUSR1, self._receive_save)
        return self

    def defer(self) -> None:
        """From now on let a stop wait until it is looked at, outside `interrupts`."""
        self._interrupts = False

    def take_save_request(self) -> bool:
        """Answer whether a save was asked for since the last call."""
        is_asked, self._save_is_asked = self._save_is_asked, False
        return is_asked

    @contextlib.contextmanager
    def interrupts(self, limit_seconds: float | None = None) -> Iterator[None]:
        """Let a stop break off what waits inside, by StopAskedError, also one that was asked for before.

        The same after `limit_seconds`; with them, main thread only. Only around what may be broken off anywhere and
        calls no collective: the wait for data.
        """
        self._interrupts = True
        try:
            if limit_seconds is not None:
                signal.signal(signal.SIGALRM, self._receive_limit)
                signal.setitimer(signal.ITIMER_REAL, max(limit_seconds, _SHORTEST_TIMER_SECONDS))
            if self.is_made:
                raise StopAskedError
            yield
        finally:
            self._interrupts = False
            if limit_seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _receive_stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked_at is None:
            self.asked_at = time.monotonic()
            if self._interrupts:
                raise StopAskedError
        elif self.seconds_ago >= _ECHO_SECONDS:
            os._exit(ExitCode.STOPPED)  # what is being saved is left unfinished, the checkpoint before it stands

    def _receive_limit(self, _number: int, _frame: FrameType | None) -> None:
        if self._interrupts:
            self.limit_is_reached = True
            raise StopAskedError

    def _receive_save(self, _number: int, _frame: FrameType | None) -> None:
        self._save_is_asked = True
