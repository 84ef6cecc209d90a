"""Calls to the disk that a crash cannot undo: write, make, sync, take away. Knows nothing of checkpoints."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import xxhash


def write_synced(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a file, readable by its owner alone, and wait until the disk has it; answer its bytes and checksum.

    Hashing and writing let other threads run. Raises OSError that names the file.
    """
    digest, num_bytes = xxhash.xxh3_128(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for chunk in chunks:
            digest.update(chunk)
            left = memoryview(chunk)
            num_bytes += len(left)
            while left:
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)
    return num_bytes, digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """Wait until the disk has the directory's names."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make it and what it lies in, for the owner alone, and wait until the disk has their names.

    Follows the link that a run directory may hold in its place, whose end need not exist on this disk yet. Raises
    OSError.
    """
    place = Path(os.path.realpath(directory))
    if not place.is_dir():
        make_directory(place.parent)
        place.mkdir(exist_ok=True, mode=0o700)
        sync_directory(place.parent)


def remove_entry(path: Path) -> None:
    """Remove what has this name, whatever it is: of a link the link alone. Raises OSError that names it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
