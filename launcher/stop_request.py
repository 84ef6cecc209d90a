"""SIGINT, SIGTERM, SIGHUP or a file as a wish to stop, SIGUSR1 as one to save, for the supervisor to look at.

The file reaches a supervisor from any host that shares the run's directory; a scheduler's signals also come relayed,
from the processes of other nodes. Stops and saves nothing itself.
"""

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher.records import read_json, write_json

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 1.0  # a scheduler may signal a job's processes one by one and as a group: that is one wish
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")  # whoever may write the file chose it: it is shown on a terminal
_LOOK_SECONDS = 0.5  # between two looks at the file: each may be a question to a file server
_POLL_SECONDS = 0.1
_RELAYED_STOPS = frozenset(one.name for one in _SIGNALS)


def _nothing_is_relayed() -> list[str]:
    return []


class StopRequest:
    """Whether, how often and by what the supervisor was asked to stop."""

    def __init__(self, path: Path | None = None, relayed: Callable[[], list[str]] = _nothing_is_relayed) -> None:
        """`path` is the file of `request_stop`; `relayed` answers the signals that have come to other nodes since."""
        self.count = 0
        self.signal_name = ""
        """What asked: a signal, or a host."""

        self.is_urgent = False
        """Whether the ranks are to be ended without a save."""

        self.is_asked = False
        """Whether a stop was asked for."""

        self._path, self._relayed = path, relayed
        self._looked_at = 0.0
        self._asked_here_at: float | None = None
        self._save_is_asked = False

    def wait(self, seconds: float) -> bool:
        """Wait until asked, `seconds` at most; answers whether a stop was asked for.

        By plain flags: a signal may come while this thread holds the lock of whatever it would wait for.
        """
        deadline = time.monotonic() + seconds
        self.look()
        while not self.is_asked and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_POLL_SECONDS, left))
            self.look()
        return self.is_asked

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal to stop; a second one does not wait for a save."""
        was_asked_at = self._asked_here_at
        if was_asked_at is not None and time.monotonic() - was_asked_at < ECHO_SECONDS:
            return
        self._asked_here_at = time.monotonic()
        self._take(signal.Signals(number).name, is_urgent=was_asked_at is not None)

    def look(self) -> None:
        """Take up what the file asks for and what was relayed. Cheap: call it as often as you like."""
        for name in self._relayed():
            self._take_relayed(name)
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
            self._asked_here_at = now
            self._take(f"llama-dist stop{' --now' if is_urgent else ''}{where}", is_urgent)

    def discard(self) -> None:
        """Remove the file: what it asked for is done, or was for a supervisor before this one."""
        if self._path:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def ask_for_save(self, _number: int = signal.SIGUSR1, _frame: FrameType | None = None) -> None:
        """Take a signal to save."""
        self._save_is_asked = True

    def take_save(self) -> bool:
        """Answer whether a save was asked for since the last call."""
        is_asked, self._save_is_asked = self._save_is_asked, False
        return is_asked

    def _take_relayed(self, name: str) -> None:
        """Take a signal that a scheduler sent to another process of the run.

        It asks all of them, and each tells when it gets to it: many are one wish, which is never urgent.
        """
        if name == signal.SIGUSR1.name:
            self.ask_for_save()
        elif name in _RELAYED_STOPS and not self.is_asked:
            self._take(name, is_urgent=False)

    def _take(self, by: str, is_urgent: bool) -> None:
        self.count += 1
        self.signal_name = by
        if is_urgent:
            self.is_urgent = True
        self.is_asked = True


def request_stop(path: Path, *, now: bool) -> None:
    """Ask whoever supervises the run to stop it; with `now`, without a save. Raises OSError."""
    write_json(path, {"now": now, "save": not now, "host": socket.gethostname(), "time": time.time()})


@contextmanager
def stop_on_signals(
    path: Path | None = None, relayed: Callable[[], list[str]] = _nothing_is_relayed
) -> Iterator[StopRequest]:
    """Turn the signals, here and relayed, and the file at `path`, into a request while the block runs.

    Main thread only.
    """
    request = StopRequest(path, relayed)
    former = {number: signal.signal(number, request.ask) for number in _SIGNALS}
    former[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, request.ask_for_save)
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
