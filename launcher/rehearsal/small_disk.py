"""A disk that can be filled up: a file system in memory below the rehearsal's directory. Needs root."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.lab.mounts import mount_small_disk, unmount_below

_BLOCK_SIZES_BYTES = (1 << 20, 1 << 12)  # the rest that a large block leaves is filled by small ones


@dataclass(frozen=True)
class SmallDisk:
    """A mounted disk."""

    path: Path

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self) -> None:
        """Take all that is free. What others free later is free until the next call."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in _BLOCK_SIZES_BYTES:
                block = bytes(size)
                with contextlib.suppress(OSError):  # it is full, which is what was wanted
                    while os.write(descriptor, block):
                        pass
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Give back what was taken."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(directory: Path, num_bytes: int) -> Iterator[SmallDisk]:
    """Mount a disk below `directory`, and unmount it at the end of the block, whatever still uses it."""
    path = directory / "small_disk"
    path.mkdir(mode=0o700)
    try:
        mount_small_disk(path, num_bytes)
        yield SmallDisk(path)
    finally:
        unmount_below(directory)
        path.rmdir()
