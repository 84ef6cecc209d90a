"""SIGINT, SIGTERM and SIGHUP as a wish that the supervisor looks at between its steps. Stops nothing itself."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether, how often and by what the supervisor was asked to stop."""

    def __init__(self) -> None:
        self.count = 0
        self.signal_name = ""
        self._asked = threading.Event()

    @property
    def is_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until asked, `seconds` at most; answers whether a stop was asked for."""
        return self._asked.wait(seconds)

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal."""
        self.count += 1
        self.signal_name = signal.Signals(number).name
        self._asked.set()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the signals into a request while the block runs. Main thread only."""
    request = StopRequest()
    former = {number: signal.signal(number, request.ask) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
