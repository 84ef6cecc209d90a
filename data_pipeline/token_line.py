"""One split of a dataset as one line of tokens, gathered from memory-mapped shards.

The manifest's offsets lead straight to the tokens: no Arrow metadata is read, shards open when first touched.
Knows no order and no epoch.
"""

import mmap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import DataError
from data_pipeline.manifest import Manifest, ShardEntry, Split

# A map keeps a file descriptor, and 1024 of these is a common limit of a process.
_MOST_OPEN_SHARDS = 256
_ARROW_MAGIC = b"ARROW1"


class TokenLine:
    """The tokens of all shards of a split, in manifest order, addressed by their position in the line."""

    def __init__(self, directory: Path, manifest: Manifest, split: Split) -> None:
        self.dtype = np.dtype(manifest.token_dtype)
        self._directory = directory
        self._shards = manifest.shards(split)
        batches = [(number, batch) for number, shard in enumerate(self._shards) for batch in shard.record_batches]
        self._shard_numbers = [number for number, _ in batches]
        self._offsets_bytes = [batch.tokens_offset_bytes for _, batch in batches]
        lengths = np.array([batch.num_tokens for _, batch in batches], dtype=np.int64)
        self._ends = np.cumsum(lengths)
        self.num_tokens = int(self._ends[-1]) if batches else 0
        self._starts = (self._ends - lengths).tolist()
        self._maps: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()

    def gather(self, starts: npt.NDArray[np.int64], rows: npt.NDArray[Any], chosen: npt.NDArray[np.int64]) -> None:
        """Fill the `chosen` of `rows` [B, length], of the stored width, from each start of int64 [chosen]."""
        first_batches = np.searchsorted(self._ends, starts, side="right").tolist()
        for number, start, batch in zip(chosen.tolist(), starts.tolist(), first_batches, strict=True):
            self._fill(rows[number], start, batch)

    def _fill(self, row: npt.NDArray[Any], start: int, batch: int) -> None:
        """Copy from `start`, which lies in record batch `batch`, across as many batches as `row` needs."""
        filled = 0
        while filled < len(row):
            offset = start + filled - self._starts[batch]
            count = min(len(row) - filled, int(self._ends[batch]) - start - filled)
            first_byte = self._offsets_bytes[batch] + offset * self.dtype.itemsize
            content = self._shard_bytes(self._shard_numbers[batch])
            row[filled : filled + count] = np.frombuffer(content, self.dtype, count, first_byte)
            filled += count
            batch += 1

    def _shard_bytes(self, number: int) -> npt.NDArray[np.uint8]:
        content = self._maps.get(number)
        if content is None:
            content = self._maps[number] = _map_shard(self._directory, self._shards[number])
            if len(self._maps) > _MOST_OPEN_SHARDS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(number)
        return content


def check_shard_size(directory: Path, shard: ShardEntry) -> None:
    """Raise DataError if the file is missing or has another size than the manifest says."""
    path = directory / shard.file
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: the shard cannot be read ({error.strerror}), the manifest says {shard.num_bytes} bytes: "
            "restore the file, or prepare the data again in a new directory"
        ) from None
    if num_bytes != shard.num_bytes:
        raise DataError(
            f"{path}: {num_bytes} bytes, the manifest says {shard.num_bytes}: the shard was cut off or replaced: "
            "restore the file, or prepare the data again in a new directory"
        )


def _map_shard(directory: Path, shard: ShardEntry) -> npt.NDArray[np.uint8]:
    # Reading past the end of a mapped file would end the process by SIGBUS, so the size is looked at again.
    check_shard_size(directory, shard)
    path = directory / shard.file
    try:
        with path.open("rb") as file:
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise DataError(f"{path}: the shard cannot be mapped: {error.strerror}") from None
    magic = content[: len(_ARROW_MAGIC)].tobytes()
    if magic != _ARROW_MAGIC:
        raise DataError(f"{path}: byte 0 holds {magic!r}, an Arrow file starts with {_ARROW_MAGIC!r}: not the shard")
    return content
