"""The cache of a node: whole, verified files under a bound of bytes, shared by processes through file locks.

A file is counted from the moment its room is taken, so the bound holds at every moment, and is listed anew each time,
so no crash can leave the count wrong. What may go is `eviction.py`'s to say, what comes in the caller's.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from data_pipeline.errors import StorageError
from data_pipeline.stores.cache_layout import (
    PART_SUFFIX,
    CachedFile,
    claim_directory,
    item_lock_path,
    list_files,
    room_lock_path,
)
from data_pipeline.stores.eviction import Uses, choose_victims
from data_pipeline.stores.file_lock import file_lock, file_lock_if_free
from data_pipeline.stores.waiting import RetryPolicy, Wait

# A fetch takes longer, a look at the directory less.
_ROOM_POLL_SECONDS = 0.05


class Origins(Protocol):
    """Knows where the files of the cache came from."""

    def confirm(self, files: Collection[CachedFile]) -> list[CachedFile]:
        """Return those whose remote copy is there, by asking the stores."""
        ...


@dataclass(frozen=True)
class Wanted:
    """A file that shall be in the cache."""

    path: Path
    num_bytes: int | None
    """Its size; None if only its content tells."""

    what: str
    """What it is, for the person who waits."""

    next_use: float
    """When it is used: only files that are used later make room for it."""

    is_index: bool = False
    """Whether it is kept even without room: only with a dataset's small files is it known how large a cache must be,
    and the one that is too small is refused right after them."""

    def is_there(self) -> bool:
        """Whether the file is in the cache. Only whole files get their final name."""
        try:
            num_bytes = self.path.stat().st_size
        except FileNotFoundError:
            return False
        return self.num_bytes in (None, num_bytes)


class NoRoomError(Exception):
    """Every file in the cache is used sooner than the wanted one."""


class NoRoomYetError(NoRoomError):
    """As its parent, but some of the room is taken by what is still being fetched: later there may be some."""


class CacheDirectory:
    """One process's view of the cache."""

    def __init__(self, root: Path, max_bytes: int, policy: RetryPolicy) -> None:
        """Claim the directory. Raises DataError if it is somebody else's, StorageError if it cannot be used."""
        self.root = root.absolute()
        self.max_bytes = max_bytes
        self._policy = policy
        claim_directory(self.root)
        self._drop_dead_parts()

    def num_bytes(self) -> int:
        """Return the bytes that the cache holds or has given away."""
        return sum(file.num_bytes for file in list_files(self.root))

    def obtain(
        self, wanted: Wanted, fetch: Callable[[], bytes], uses: Uses, origins: Origins, *, is_patient: bool = True
    ) -> bool:
        """Make the file be there, whole: by another process's work, or by `fetch`, which verifies what it returns.

        False if another process is at it and the caller is not patient. Raises NoRoomError if all that would have to
        go is used sooner, NoRoomYetError if that may change and the caller is not patient, and what `fetch` raises.
        """
        if wanted.is_there():
            return True
        wait = Wait(wanted.what, self._policy.notice_after_seconds)
        lock_path = item_lock_path(self.root, wanted.path)
        try:
            wanted.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with file_lock(lock_path, wait) if is_patient else file_lock_if_free(lock_path) as is_held:
                while is_held and not wanted.is_there():
                    try:
                        self._fill(wanted, fetch, uses, origins, wait)
                        break
                    except NoRoomYetError:
                        if not is_patient:
                            raise
                        # Fetches end, and the locks of dead processes are free: no reason to give up.
                        wait.sleep(_ROOM_POLL_SECONDS, "the cache is full of what is being fetched")
                return is_held
        except OSError as error:
            raise StorageError(
                f"{wanted.path}: cannot be kept: {error.strerror or error}: free the disk of data.cache.directory, or "
                f"lower data.cache.max_bytes, which is {self.max_bytes}"
            ) from None

    def _fill(self, wanted: Wanted, fetch: Callable[[], bytes], uses: Uses, origins: Origins, wait: Wait) -> None:
        part = wanted.path.with_name(wanted.path.name + PART_SUFFIX)
        # Either may be left of a process or a machine that died.
        part.unlink(missing_ok=True)
        wanted.path.unlink(missing_ok=True)
        content = fetch() if wanted.num_bytes is None else None
        num_bytes = wanted.num_bytes if content is None else len(content)
        assert num_bytes is not None
        self._take_room(replace(wanted, num_bytes=num_bytes), part, uses, origins, wait)
        try:
            with part.open("r+b") as file:
                file.write(fetch() if content is None else content)
            # Under the lock, since a listing may see a file that is renamed meanwhile under neither name.
            with file_lock(room_lock_path(self.root), wait):
                part.replace(wanted.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _take_room(self, wanted: Wanted, part: Path, uses: Uses, origins: Origins, wait: Wait) -> None:
        """Create `part` at its full size, once there is room; evict for it."""
        assert wanted.num_bytes is not None
        confirmed: list[CachedFile] = []
        delay_seconds = self._policy.delays()
        num_failures = 0
        while num_failures < self._policy.num_attempts:
            with file_lock(room_lock_path(self.root), wait):
                missing_bytes = self.num_bytes() + wanted.num_bytes - self.max_bytes
                missing_bytes -= _remove(confirmed, missing_bytes)
                if missing_bytes <= 0:
                    _create(part, wanted.num_bytes)
                    return
                files = list(list_files(self.root))
            if self._drop_dead_parts(held_lock=item_lock_path(self.root, wanted.path)):
                continue
            victims = choose_victims(files, uses, later_than=wanted.next_use)
            if not victims and wanted.is_index:
                _create(part, wanted.num_bytes)
                return
            if not victims:
                is_final = not any(file.is_part for file in files)
                raise (NoRoomError if is_final else NoRoomYetError)(self._describe_full(wanted, missing_bytes))
            confirmed = _confirm_enough(victims, missing_bytes, origins)
            if not confirmed:
                num_failures += 1
                wait.sleep(delay_seconds(num_failures), "the cache is full, and no store confirms that it has a copy")
        raise StorageError(
            f"{self._describe_full(wanted, missing_bytes)}, and their stores did not confirm within "
            f"{wait.seconds:.0f} s that they have them: see whether the stores answer, or raise data.cache.max_bytes"
        )

    def _describe_full(self, wanted: Wanted, missing_bytes: int) -> str:
        return (
            f"{wanted.what}: needs {missing_bytes} bytes more than the {self.max_bytes} of the cache {self.root} "
            "leave: what it holds is needed sooner or cannot be fetched again"
        )

    def _drop_dead_parts(self, *, held_lock: Path | None = None) -> int:
        """Remove what processes that are no more had begun to fetch: their locks are free.

        `held_lock` is the caller's, who has no part yet: files share locks, so a part under it is a dead one too.
        """
        num_dropped = 0
        for file in list_files(self.root):
            if file.is_part:
                lock_path = item_lock_path(self.root, file.path)
                with file_lock_if_free(lock_path) as is_free:
                    if is_free or lock_path == held_lock:
                        file.path.unlink(missing_ok=True)
                        num_dropped += 1
        return num_dropped


def _confirm_enough(victims: list[CachedFile], missing_bytes: int, origins: Origins) -> list[CachedFile]:
    """Ask the stores for as many of the victims, best first, as make the room; skip those that have no copy."""
    confirmed: list[CachedFile] = []
    num_bytes, start = 0, 0
    while num_bytes < missing_bytes and start < len(victims):
        end, asked_bytes = start, 0
        while end < len(victims) and asked_bytes < missing_bytes - num_bytes:
            asked_bytes += victims[end].num_bytes
            end += 1
        found = origins.confirm(victims[start:end])
        confirmed += found
        num_bytes += sum(file.num_bytes for file in found)
        start = end
    return confirmed


def _remove(confirmed: list[CachedFile], missing_bytes: int) -> int:
    """Remove files until the room is there; return the bytes freed."""
    freed_bytes = 0
    for file in confirmed:
        if freed_bytes >= missing_bytes:
            break
        try:
            file.path.unlink()
            freed_bytes += file.num_bytes
        except FileNotFoundError:
            pass  # another process was faster, and its room is already in the count
    return freed_bytes


def _create(part: Path, num_bytes: int) -> None:
    """Create the file at its full size, so that its room shows in every listing."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.truncate(descriptor, num_bytes)
    finally:
        os.close(descriptor)
