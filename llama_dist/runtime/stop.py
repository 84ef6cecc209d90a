"""A request to stop, by signal. The loop asks at each step; all ranks then agree, save and leave together."""

import signal
from types import FrameType


class StopRequest:
    """Becomes true at the first SIGTERM or SIGINT. Install it in the main thread."""

    def __init__(self) -> None:
        self.is_made = False

    def install(self) -> "StopRequest":
        """Listen from now on, and answer self."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        return self

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.is_made = True
