"""What the supervisor shows: its own lines, and a rank's output as it grows. A closed terminal costs nothing."""

import codecs
import sys
from pathlib import Path
from typing import TextIO

_PREFIX = "llama-dist: "
_BLOCK_BYTES = 1 << 16


class Console:
    """Writes to the terminal until it is gone, then to nowhere: training goes on."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = stream or sys.stdout

    def say(self, line: str) -> None:
        """Show one line of the supervisor's own."""
        self.write(f"{_PREFIX}{line}\n")

    def write(self, text: str) -> None:
        """Show text as it is."""
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a broken pipe, a terminal that was closed
            self._stream = None


class Follower:
    """Shows what a growing file gains. The file may appear late."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path = path
        self._console = console
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may come in two reads

    def show_new(self) -> None:
        """Show what was added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                while block := file.read(_BLOCK_BYTES):
                    self._position += len(block)
                    self._console.write(self._decoder.decode(block))
        except OSError:
            return  # not there yet
