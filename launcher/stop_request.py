"""SIGINT, SIGTERM, SIGHUP as a wish to stop, SIGUSR1 as one to save, which the supervisor looks at between its steps.

Stops and saves nothing itself.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ECHO_SECONDS = 1.0  # a scheduler may signal a job's processes one by one and as a group: that is one wish


class StopRequest:
    """Whether, how often and by what the supervisor was asked to stop."""

    def __init__(self) -> None:
        self.count = 0
        self.signal_name = ""
        self._asked = threading.Event()
        self._asked_at = 0.0
        self._save_is_asked = False

    @property
    def is_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until asked, `seconds` at most; answers whether a stop was asked for."""
        return self._asked.wait(seconds)

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal to stop."""
        now = time.monotonic()
        if self.is_asked and now - self._asked_at < _ECHO_SECONDS:
            return
        self.count += 1
        self._asked_at = now
        self.signal_name = signal.Signals(number).name
        self._asked.set()

    def ask_by_name(self, name: str) -> None:
        """Take a signal that a scheduler sent to another process of the run."""
        self.ask(signal.Signals[name])

    def ask_for_save(self, _number: int = signal.SIGUSR1, _frame: FrameType | None = None) -> None:
        """Take a signal to save."""
        self._save_is_asked = True

    def take_save(self) -> bool:
        """Answer whether a save was asked for since the last call."""
        is_asked, self._save_is_asked = self._save_is_asked, False
        return is_asked


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the signals into a request while the block runs. Main thread only."""
    request = StopRequest()
    former = {number: signal.signal(number, request.ask) for number in _SIGNALS}
    former[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, request.ask_for_save)
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
