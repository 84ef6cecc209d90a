"""Files that are whole or absent: written beside, synced, renamed. Knows nothing of what they hold."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import xxhash

from data_pipeline.errors import StorageError

# Large enough for the hash to run at memory speed, small enough to stay in the processor's cache.
_READ_BYTES = 1 << 20
_UNFINISHED_NAME = re.compile(r"\.tmp-\d+$")


@contextmanager
def open_durably(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under `path` only when the block ends well; else it is removed.

    The process id in the temporary name keeps two processes apart. Raises StorageError where the disk refuses.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror or error}: free or mend the disk, start again"
        ) from None


def write_durably(path: Path, content: bytes) -> None:
    """Write all of `content` to `path`, or leave what was there."""
    with open_durably(path) as file:
        file.write(content)


def sync_directory(path: Path) -> None:
    """Make the renames inside `path` survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_unfinished(name: str) -> bool:
    """Whether `name` is one that `open_durably` gives to a file it has not finished."""
    return _UNFINISHED_NAME.search(name) is not None


def checksum_file(path: Path) -> str:
    """Hash the whole file with xxh3_128, as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def checksum_bytes(content: bytes | memoryview) -> str:
    """Hash `content` with xxh3_128, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(content)
