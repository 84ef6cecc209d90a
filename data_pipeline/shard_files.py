"""The bytes of a split's shards: the seam at which local and remote datasets differ, and the local side of it.

Maps files; knows nothing of tokens. Remote shards are fetched and mapped by `stores/`.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.shard_index import ShardEntry

UInt8 = npt.NDArray[np.uint8]

ARROW_MAGIC = b"ARROW1"
# Mapping a shard again costs 20 microseconds; a process may have some 65,000 maps.
_MOST_MAPPED_SHARDS = 256


class ShardFiles(Protocol):
    """Gives the bytes of record batches of one split of one dataset. The bytes are never written to."""

    most_held_batches: int
    """Record batches that a reader may keep hold of at a time; what it lets go of may be taken from the disk."""

    def record_batch(self, shard_number: int, batch_number: int) -> tuple[UInt8, int]:
        """Return uint8 bytes that hold record batch `batch_number` of shard `shard_number`, both counted in the split
        and in the shard from 0, and the place in the shard's file of the first of these bytes.

        Raises DataError where the file is missing, of another size or of another kind.
        """
        ...


class LocalShardFiles:
    """Shards in a directory, each mapped whole when first touched."""

    most_held_batches = 1024

    def __init__(self, directory: Path, shards: Sequence[ShardEntry]) -> None:
        self._directory = directory
        self._shards = shards
        self._maps: OrderedDict[int, UInt8] = OrderedDict()

    def record_batch(self, shard_number: int, batch_number: int) -> tuple[UInt8, int]:
        """Return the whole shard, which starts at place 0 of its file."""
        content = self._maps.get(shard_number)
        if content is None:
            shard = self._shards[shard_number]
            content = map_file(self._directory / shard.file, shard.num_bytes)
            _check_magic(self._directory / shard.file, content)
            self._maps[shard_number] = content
            if len(self._maps) > _MOST_MAPPED_SHARDS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(shard_number)
        return content, 0


def map_file(path: Path, num_bytes: int) -> UInt8:
    """Map the file, which must have `num_bytes`. Raises DataError if it is missing or has another size.

    Reading past the end of a mapped file would end the process by SIGBUS: the size is looked at here, whatever
    was seen before. The map keeps no file descriptor, of which a process has few.
    """
    check_file_size(path, num_bytes)
    if not num_bytes:
        return np.empty(0, np.uint8)
    try:
        with pa.memory_map(str(path)) as file:
            content: UInt8 = np.frombuffer(file.read_buffer(num_bytes), np.uint8)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be mapped: {error}") from None
    if len(content) != num_bytes:
        raise DataError(f"{path}: {len(content)} bytes, the manifest says {num_bytes}: it was cut off while it opened")
    return content


def check_shard_size(directory: Path, shard: ShardEntry) -> None:
    """Raise DataError if the file is missing or has another size than the manifest says."""
    check_file_size(directory / shard.file, shard.num_bytes)


def check_file_size(path: Path | str, num_bytes: int) -> None:
    """Raise DataError if the file is missing or has another size than `num_bytes`, which the manifest says."""
    try:
        seen = os.stat(path).st_size  # noqa: PTH116  (a Path takes five times as long, and there may be thousands)
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be read ({error.strerror}), the manifest says {num_bytes} bytes: "
            "restore the file, or prepare the data again in a new directory"
        ) from None
    if seen != num_bytes:
        raise DataError(
            f"{path}: {seen} bytes, the manifest says {num_bytes}: the file was cut off or replaced: "
            "restore the file, or prepare the data again in a new directory"
        )


def _check_magic(path: Path, content: UInt8) -> None:
    magic = content[: len(ARROW_MAGIC)].tobytes()
    if magic != ARROW_MAGIC:
        raise DataError(f"{path}: byte 0 holds {magic!r}, an Arrow file starts with {ARROW_MAGIC!r}: not the shard")
