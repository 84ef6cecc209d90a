"""SIGINT, SIGTERM, SIGHUP or a file as a wish to stop, SIGUSR1 as one to save, for the supervisor to look at.

The file reaches a supervisor from any host that shares the run's directory. Stops and saves nothing itself.
"""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher.records import read_json, write_json

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 1.0  # a scheduler may signal a job's processes one by one and as a group: that is one wish
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")  # whoever may write the file chose it: it is shown on a terminal
_LOOK_SECONDS = 0.5  # between two looks at the file: each may be a question to a file server


class StopRequest:
    """Whether, how often and by what the supervisor was asked to stop."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the file of `request_stop`."""
        self.count = 0
        self.signal_name = ""
        """What asked: a signal, or a host."""

        self.is_urgent = False
        """Whether the ranks are to be ended without a save."""

        self._path = path
        self._looked_at = 0.0
        self._asked = threading.Event()
        self._asked_at = 0.0
        self._save_is_asked = False

    @property
    def is_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until asked, `seconds` at most; answers whether a stop was asked for."""
        deadline = time.monotonic() + seconds
        while not self._asked.wait(max(0.0, min(_LOOK_SECONDS, deadline - time.monotonic()))):
            self.look()
            if time.monotonic() >= deadline:
                break
        return self.is_asked

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal to stop; a second one does not wait for a save."""
        now = time.monotonic()
        if self.is_asked and now - self._asked_at < ECHO_SECONDS:
            return
        self._take(signal.Signals(number).name, is_urgent=self.is_asked)

    def look(self) -> None:
        """Take up what the file asks for, if it is there. Cheap: call it as often as you like."""
        now = time.monotonic()
        if self._path is None or now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        if os.path.lexists(self._path):
            wish = read_json(self._path) or {}
            self.discard()
            is_urgent = wish.get("now") is True or wish.get("save") is False
            host = wish.get("host")
            where = f" on {host}" if isinstance(host, str) and _HOST.fullmatch(host) else ""
            self._take(f"llama-dist stop{' --now' if is_urgent else ''}{where}", is_urgent)

    def discard(self) -> None:
        """Remove the file: what it asked for is done, or was for a supervisor before this one."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink()

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

    def _take(self, by: str, is_urgent: bool) -> None:
        self.count += 1
        self._asked_at = time.monotonic()
        self.signal_name = by
        self.is_urgent = self.is_urgent or is_urgent
        self._asked.set()


def request_stop(path: Path, *, now: bool) -> None:
    """Ask whoever supervises the run to stop it; with `now`, without a save. Raises OSError."""
    write_json(path, {"now": now, "save": not now, "host": socket.gethostname(), "time": time.time()})


@contextmanager
def stop_on_signals(path: Path | None = None) -> Iterator[StopRequest]:
    """Turn the signals, and the file at `path`, into a request while the block runs. Main thread only."""
    request = StopRequest(path)
    former = {number: signal.signal(number, request.ask) for number in _SIGNALS}
    former[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, request.ask_for_save)
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
