"""The directory that a preparation fills: whose it is, what an interrupted one left, and which tasks are done.

One lock tells whether anybody works in it: held alone while it is set up, shared by all workers after that. Each
worker index has a lock of its own. Locks go with their process, however that ends.
"""

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_pipeline.durable_file import is_unfinished
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import INDEX_NAME, MANIFEST_NAME, PACKS_NAME, SHARDS_NAME, SOURCES_NAME, TOKENIZER_NAME
from data_pipeline.preparation.task_record import TASKS_NAME, numbers_of_records

_LOCK_NAME = ".lock"
_OUR_NAMES = {
    MANIFEST_NAME,
    INDEX_NAME,
    PACKS_NAME,
    SHARDS_NAME,
    SOURCES_NAME,
    TOKENIZER_NAME,
    TASKS_NAME,
    _LOCK_NAME,
}
_SHARD_NAME = re.compile(r"^(?:train|validation)-(\d{5,})-\d{3,}\.arrow(?:\.tmp-\d+)?$")
# Without `kept-` files: those are not written by whose task it is.
_RECORD_NAME = re.compile(r"^(?:hashes-)?(\d{5,})\.(?:json|bin)(?:\.tmp-\d+)?$")
# Setting up takes as long as writing a few small files.
_SET_UP_SECONDS = 20.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Share:
    """The tasks of one worker among several machines: those whose number is `index` modulo `count`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise DataError(
                f"--worker-index {self.index} with --num-workers {self.count}: use indices 0..{max(0, self.count - 1)}"
            )

    def has(self, number: int) -> bool:
        """Whether the task is this worker's."""
        return number % self.count == self.index


class WorkDirectory:
    """The directory while its lock is held."""

    def __init__(self, path: Path, lock: BinaryIO, share: Share) -> None:
        self.path = path
        self._lock = lock
        self._share = share
        self.is_alone = _try_lock(lock, fcntl.LOCK_EX)
        """Whether no other process works in the directory, so that anything in it may be changed."""
        if not self.is_alone:
            self._join()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Let other worker indices in, and keep this one out of another process's hands."""
        # Giving up the exclusive lock may let another in first; it finds the plan there and lets go soon.
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        own = self.path / TASKS_NAME / f"worker-{self._share.index:05d}.lock"
        with _open_for_lock(own) as lock:
            if not _try_lock(lock, fcntl.LOCK_EX):
                raise self._busy(f"as worker {self._share.index} of {self._share.count}")
            yield

    def _join(self) -> None:
        if self._share.count == 1:
            raise self._busy("")
        deadline = time.monotonic() + _SET_UP_SECONDS
        while not _try_lock(self._lock, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise self._busy("alone, without --num-workers")
            time.sleep(_POLL_SECONDS)

    def _busy(self, how: str) -> DataError:
        what = f"another process is preparing data in it {how}".rstrip()
        return DataError(f"{self.path}: {what}: wait for it, or end it")


@contextmanager
def open_work_directory(output: Path, share: Share) -> Iterator[WorkDirectory]:
    """Make the directory if need be, and hold its lock. Raises DataError for one with other things in it."""
    try:
        foreign = [child.name for child in output.iterdir() if not _is_ours(child.name)] if output.exists() else []
        if foreign:
            raise DataError(
                f"{output}: holds other things ({', '.join(sorted(foreign)[:3])}): give --output a directory of its own"
            )
        (output / SHARDS_NAME).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{output}: cannot be written: {error.strerror or error}") from None
    with _open_for_lock(output / _LOCK_NAME) as lock:
        yield WorkDirectory(output, lock, share)


@contextmanager
def finishing(output: Path) -> Iterator[None]:
    """Wait until no other process writes the manifest of `output`."""
    try:
        lock = _open_for_lock(output / TASKS_NAME / "finish.lock")
    except FileNotFoundError:
        # Somebody else has finished, and has removed the tasks.
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def lock_if_free(output: Path, name: str) -> Iterator[bool]:
    """Hold the lock `name` among the tasks if no other process does; answers whether it is held."""
    with _open_for_lock(output / TASKS_NAME / name) as lock:
        yield _try_lock(lock, fcntl.LOCK_EX)


def count_shards(output: Path) -> int:
    """Count the shard files there. Raises DataError for a file that no preparation writes."""
    names = [child.name for child in (output / SHARDS_NAME).iterdir()]
    strange = next((name for name in names if not _SHARD_NAME.match(name)), None)
    if strange is not None:
        raise DataError(
            f"{output / SHARDS_NAME / strange}: not a file of a preparation: give --output a directory of its own"
        )
    return sum(not is_unfinished(name) for name in names)


def remove_leftovers(output: Path, tasks: set[int]) -> None:
    """Remove what unfinished tasks left behind: their shards, and every half-written file of theirs."""
    for folder, pattern in ((output / SHARDS_NAME, _SHARD_NAME), (output / TASKS_NAME, _RECORD_NAME)):
        for child in folder.iterdir() if folder.exists() else ():
            found = pattern.match(child.name)
            if found and int(found[1]) in tasks and (folder.name == SHARDS_NAME or is_unfinished(child.name)):
                child.unlink(missing_ok=True)


def remove_half_files(output: Path) -> None:
    """Remove every half-written file; only for who is alone in the directory."""
    for folder in (output, output / TASKS_NAME, output / SHARDS_NAME):
        for child in folder.iterdir() if folder.exists() else ():
            if is_unfinished(child.name):
                child.unlink(missing_ok=True)


def remove_shards(output: Path) -> None:
    """Remove every shard; only for who is alone in the directory, and knows that nobody wants them."""
    for child in (output / SHARDS_NAME).iterdir():
        child.unlink()


def missing_tasks(output: Path, num_tasks: int) -> list[int]:
    """Return the tasks without a record, in order."""
    return sorted(set(range(num_tasks)) - numbers_of_records(output))


def _is_ours(name: str) -> bool:
    return name in _OUR_NAMES or is_unfinished(name)


def _open_for_lock(path: Path) -> BinaryIO:
    try:
        return path.open("ab")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None


def _try_lock(lock: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"{lock.name}: cannot be locked ({error.strerror}): use a file system with locks (Lustre: mount -o flock)"
        ) from None
    return True
