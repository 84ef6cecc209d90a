"""Marker files by which two machines find out whether they see the same directory. Each is removed again.

A marker holds its own name: an empty or foreign file of the name is not taken for one.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"\.llama-dist-doctor-[0-9a-f]{32}")
_POLL_SECONDS = 0.2


class Markers:
    """The markers that this process has written."""

    def __init__(self) -> None:
        self._written: list[Path] = []

    def write(self, directory: Path, name: str) -> None:
        """Write a new file. Raises OSError where the directory cannot be written."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a marker")
        path = directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        self._written.append(path)
        try:
            os.write(descriptor, name.encode())
            os.fsync(descriptor)  # a full disk is told here, and a network file system sends it now
        finally:
            os.close(descriptor)

    def find(self, directory: Path, names: Iterable[str], wait_seconds: float) -> list[str]:
        """Return which of the names are there; a network file system may show them late, so wait for the rest."""
        missing, deadline = set(names), time.monotonic() + wait_seconds
        wanted = set(missing)
        while True:
            missing = {name for name in missing if not _is_marker(directory, name)}
            if not missing or time.monotonic() >= deadline:
                return sorted(wanted - missing)
            time.sleep(_POLL_SECONDS)

    def remove_all(self) -> None:
        """Remove what was written, as far as it can be."""
        for path in self._written:
            with contextlib.suppress(OSError):
                path.unlink()
        self._written.clear()


def _is_marker(directory: Path, name: str) -> bool:
    if not _NAME.fullmatch(name):
        return False
    try:
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.read(descriptor, len(name) + 1) == name.encode()
    except OSError:
        return False
    finally:
        os.close(descriptor)
