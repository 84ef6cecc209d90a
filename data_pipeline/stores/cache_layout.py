"""Where things lie in a cache directory, and whose it is. Decides nothing about what is kept.

OWNER           marks the directory as ours: in any other one nothing is written and nothing removed
room.lock       held while room is counted and given away
locks/          one of 256 is held while an item is fetched
DATASET/        named by fingerprint: origin.json (its URL), the small files of the dataset under their own
                names, SHARD.NUMBER.batch, and *.part of what is being fetched
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from data_pipeline.errors import DataError, StorageError

PART_SUFFIX = ".part"
ORIGIN_NAME = "origin.json"
_OWNER_NAME = "OWNER"
_OWNER_TEXT = b"llama-dist cache, version 1. The program removes files from this directory.\n"
_LOCKS_NAME = "locks"
_NUM_LOCKS = 256
_DATASET_NAME = re.compile(r"^[0-9a-f]{32}$")
_BATCH_NAME = re.compile(r"^(?P<shard>[a-z0-9_-]+)\.(?P<number>\d+)\.batch$")


@dataclass(frozen=True)
class BatchKey:
    """One record batch of one dataset."""

    dataset: str
    """Fingerprint."""

    shard: str
    """Name of the shard's file, without its ending."""

    number: int
    """Place of the batch in its shard."""


@dataclass(frozen=True)
class CachedFile:
    """A file in the cache, finished or not."""

    path: Path
    dataset: str
    """Fingerprint of its dataset."""

    num_bytes: int
    modified_ns: int

    @property
    def is_part(self) -> bool:
        """Whether it is still being fetched, or was when its process died."""
        return self.path.name.endswith(PART_SUFFIX)

    @property
    def key(self) -> BatchKey | None:
        """The record batch, or None for the small files of a dataset and for parts."""
        match = _BATCH_NAME.match(self.path.name)
        return BatchKey(self.dataset, match["shard"], int(match["number"])) if match else None


def batch_path(root: Path, key: BatchKey) -> Path:
    """Return where a record batch lies."""
    return root / key.dataset / f"{key.shard}.{key.number:05d}.batch"


def room_lock_path(root: Path) -> Path:
    """Return the lock over the counting of bytes."""
    return root / "room.lock"


def item_lock_path(root: Path, path: Path) -> Path:
    """Return the lock of one file. A fixed number of them, since a lock file can never be removed safely."""
    place = path.relative_to(root).as_posix().removesuffix(PART_SUFFIX)
    return root / _LOCKS_NAME / f"{xxhash.xxh3_64_intdigest(place.encode()) % _NUM_LOCKS:02x}"


def list_files(root: Path) -> Iterator[CachedFile]:
    """Yield every file of every dataset, parts included; others than ours are never looked at."""
    for dataset in os.scandir(root):
        if _DATASET_NAME.match(dataset.name) and dataset.is_dir(follow_symlinks=False):
            yield from _list_folder(dataset.path, dataset.name)


def _list_folder(folder: str, dataset: str) -> Iterator[CachedFile]:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _list_folder(entry.path, dataset)
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # evicted by another process meanwhile
        yield CachedFile(Path(entry.path), dataset, status.st_size, status.st_mtime_ns)


def claim_directory(root: Path) -> None:
    """Make the directory ours, or find that it is. Raises DataError if it holds what is not ours."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root / _OWNER_NAME
        if not owner.exists():
            foreign = sorted(path.name for path in root.iterdir() if not path.name.startswith(_OWNER_NAME))
            # Looked at again: a rank beside us may have claimed it, and filled it, in between.
            if foreign and not owner.exists():
                raise DataError(
                    f"data.cache.directory {root}: holds {foreign[0]!r} and no {_OWNER_NAME} file of a cache: files "
                    "are removed from a cache, so name an empty directory, or one that does not exist"
                )
            root.chmod(0o700)
            mark = root / f"{_OWNER_NAME}.tmp-{os.getpid()}"
            mark.write_bytes(_OWNER_TEXT)
            mark.replace(owner)
        if owner.read_bytes() != _OWNER_TEXT:
            raise DataError(f"{owner}: not the mark of a cache that this version knows: name another directory")
        (root / _LOCKS_NAME).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"data.cache.directory {root}: cannot be used: {error.strerror or error}: name a directory on a disk of "
            "the node that this user may write"
        ) from None
