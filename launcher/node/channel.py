"""A node agent's end of the pipe or socket to its supervisor. Knows no message.

Reading waits; writing never does: a supervisor that is stopped, or a network that swallows, must not keep the agent
from ending its ranks.
"""

import os
import queue
import select
import threading
import time
from collections.abc import Mapping
from typing import Any

from launcher.node.messages import LineBuffer, Message, encode

_BLOCK_BYTES = 1 << 16
_LARGEST_QUEUE = 1000  # messages that wait for a supervisor that does not read; later ones are dropped
_FLUSH_SECONDS = 2.0


class Channel:
    """Messages over two file descriptors."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._lines = LineBuffer()
        self._outgoing: queue.Queue[bytes] = queue.Queue(_LARGEST_QUEUE)
        self.is_closed = False
        threading.Thread(target=self._write, daemon=True).start()

    def receive(self, seconds: float) -> list[Message]:
        """Return what has come within `seconds`, as soon as anything has. Sets `is_closed` at the end."""
        ready, _, _ = select.select([self._reading], [], [], seconds)
        if not ready:
            return []
        try:
            data = os.read(self._reading, _BLOCK_BYTES)
        except OSError:
            data = b""
        if not data:
            self.is_closed = True
        return list(self._lines.take(data))

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message; one too many is dropped."""
        try:
            self._outgoing.put_nowait(encode(message))
        except queue.Full:
            return

    def flush(self) -> None:
        """Wait a little until what was sent is written."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        while self._outgoing.unfinished_tasks and not self.is_closed and time.monotonic() < deadline:
            time.sleep(0.01)

    def _write(self) -> None:
        while True:
            left = memoryview(self._outgoing.get())
            try:
                while left:
                    left = left[os.write(self._writing, left) :]
            except OSError:
                self.is_closed = True
                return
            self._outgoing.task_done()
