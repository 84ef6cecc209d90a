"""Locks between processes and threads of one node: `flock` on a file, which a dead process lets go of by itself."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.stores.waiting import Wait

# Short enough not to be felt beside a fetch, long enough to cost nothing.
_POLL_SECONDS = 0.005


@contextmanager
def file_lock(path: Path, wait: Wait) -> Iterator[bool]:
    """Hold the lock and answer True; `wait` tells who watches if another process has it for long."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Polled, since a blocking flock could not say what it waits for.
        while not _take(descriptor):
            wait.sleep(_POLL_SECONDS, f"another process of this node holds {path}")
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def file_lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody has it; answers whether it is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
