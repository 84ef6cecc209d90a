"""Reads the rows of a MosaicML streaming (MDS) dataset, plain or compressed. Executes and unpickles nothing.

The format (streaming/base/format/mds): a shard is the number of samples n and n + 1 byte offsets, all uint32, then the
writer's config, then the samples. A sample is the uint32 sizes of its columns without a fixed size, then the columns.
"""

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from data_pipeline.errors import DataError
from data_pipeline.interop.imported_corpus import ForeignFile, ImportedDocument, size_of, view_numbers
from data_pipeline.interop.mds_index import INDEX_NAME, Column, MdsShard, find_column, read_index

# The writer's names of compressions that Arrow reads as streams, and Arrow's.
_COMPRESSIONS = {"zstd": "zstd", "gz": "gzip", "bz2": "bz2", "br": "brotli"}
_XXHASHES = {"xxh32", "xxh64", "xxh128", "xxh3_64", "xxh3_128"}
# NDArray's codes of whole numbers, where each value names its own type.
_CODED_DTYPES = {8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 32: "uint32", 33: "int32", 64: "uint64", 65: "int64"}


class MdsCorpus:
    """One column of an MDS dataset. One shard at a time is mapped, or held decompressed."""

    def __init__(self, directory: Path, column: str, *, bytes_dtype: str = "int64") -> None:
        """Open `directory`. Raises DataError where the index or a file's size is not what it should be."""
        self._directory = directory
        self._shards = read_index(directory)
        self._column: Column = find_column(directory, self._shards, column, bytes_dtype)
        self.holds_text = self._column.is_text
        self.format_name = f"mds, column {column}" + ("" if self.holds_text else f" of {self._column.dtype or 'ids'}")
        self.files = tuple(self._check_file(shard) for shard in self._shards)

    def documents(self) -> Iterator[ImportedDocument]:
        """Yield the rows in the order of the shards; each is a document."""
        for shard in self._shards:
            path = self._directory / shard.stored.basename
            content = self._read_shard(shard, path)
            for number, (start, end) in enumerate(_sample_bounds(shard, path, content)):
                place = f"{path}: sample {number} at byte {start}"
                value = self._column_bytes(shard, content[start:end], place)
                yield ImportedDocument(place, self._decode(value, place), end - start)

    def _check_file(self, shard: MdsShard) -> ForeignFile:
        if shard.compression and _COMPRESSIONS.get(shard.compression.split(":")[0]) is None:
            raise DataError(
                f"{self._directory / INDEX_NAME}: {shard.stored.basename} is compressed by {shard.compression!r}: "
                f"this program reads {', '.join(_COMPRESSIONS)}; decompress the shards first"
            )
        path = self._directory / shard.stored.basename
        num_bytes = size_of(path)
        if num_bytes != shard.stored.bytes:
            raise DataError(
                f"{path}: {num_bytes} bytes, {INDEX_NAME} says {shard.stored.bytes}: it was cut off or replaced"
            )
        return ForeignFile(path.name, num_bytes)

    def _read_shard(self, shard: MdsShard, path: Path) -> memoryview:
        try:
            with path.open("rb") as file:
                content = memoryview(
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if shard.stored.bytes else b""
                )
        except OSError as error:
            raise DataError(f"{path}: cannot be mapped: {error.strerror}") from None
        _check_hashes(path, content, shard.stored.hashes)
        return _decompress(shard, path) if shard.compression else content

    def _column_bytes(self, shard: MdsShard, sample: memoryview, place: str) -> memoryview:
        """Cut the column out of a sample, whose bytes must be exactly those of its columns."""
        num_sizes = sum(size is None for size in shard.column_sizes)
        if len(sample) < 4 * num_sizes:
            raise DataError(
                f"{place}: {len(sample)} bytes, the sizes of its columns alone have {4 * num_sizes}: damaged"
            )
        stored = iter(view_numbers(sample, "uint32", num_sizes, 0).tolist())
        sizes = [next(stored) if size is None else size for size in shard.column_sizes]
        if 4 * num_sizes + sum(sizes) != len(sample):
            raise DataError(f"{place}: {len(sample)} bytes, its columns need {4 * num_sizes + sum(sizes)}: damaged")
        start = 4 * num_sizes + sum(sizes[: self._column.place])
        return sample[start : start + sizes[self._column.place]]

    def _decode(self, value: memoryview, place: str) -> npt.NDArray[Any] | str:
        if not self._column.is_text:
            return _decode_ids(value, self._column, place)
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 at byte {error.start} of the text") from None


def _check_hashes(path: Path, content: memoryview, hashes: dict[str, str]) -> None:
    """Compare the checksums that the index has, of the kinds that are known here."""
    for name, needed in hashes.items():
        if name in _XXHASHES:
            seen = getattr(xxhash, f"{name}_hexdigest")(content)
        elif name in hashlib.algorithms_guaranteed and not name.startswith("shake"):
            seen = hashlib.new(name, content).hexdigest()
        else:
            continue
        if seen != needed:
            raise DataError(f"{path}: {name} {seen} over {len(content)} bytes, {INDEX_NAME} says {needed}: damaged")


def _decompress(shard: MdsShard, path: Path) -> memoryview:
    """Decompress up to one byte more than the index says, so that a shard cannot fill the memory."""
    assert shard.compression is not None
    needed = shard.raw_data.bytes
    try:
        with pa.input_stream(str(path), compression=_COMPRESSIONS[shard.compression.split(":")[0]]) as stream:
            content = memoryview(stream.read(needed + 1))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {shard.compression} cannot be decompressed: {error}: cut off or damaged") from None
    if len(content) != needed:
        seen = f"{len(content)} bytes" if len(content) < needed else f"more than {needed} bytes"
        raise DataError(f"{path}: {seen} when decompressed, {INDEX_NAME} says {needed}: cut off or damaged")
    return content


def _sample_bounds(shard: MdsShard, path: Path, content: memoryview) -> Iterator[tuple[int, int]]:
    header_bytes = 4 * (shard.samples + 2)
    if len(content) != shard.raw_data.bytes or len(content) < header_bytes:
        raise DataError(f"{path}: {len(content)} bytes, {shard.samples} samples need more than {header_bytes}: cut off")
    num_samples = int(view_numbers(content, "uint32", 1, 0)[0])
    if num_samples != shard.samples:
        raise DataError(f"{path}: byte 0 says {num_samples} samples, {INDEX_NAME} says {shard.samples}: not this shard")
    bounds = view_numbers(content, "uint32", num_samples + 1, 4).astype(np.int64)
    falling = np.flatnonzero(np.diff(bounds) < 0)
    if len(falling) or int(bounds[0]) < header_bytes or int(bounds[-1]) != len(content):
        byte = 4 + 4 * int(falling[0] if len(falling) else 0)
        raise DataError(
            f"{path}: the sample bounds at byte {byte} do not rise from {header_bytes} to {len(content)}: damaged"
        )
    yield from zip(bounds.tolist(), bounds[1:].tolist(), strict=False)


def _decode_ids(value: memoryview, column: Column, place: str) -> npt.NDArray[Any]:
    start, dtype = 0, column.dtype
    if dtype is None:
        dtype = _CODED_DTYPES.get(value[0]) if len(value) else None
        if dtype is None:
            raise DataError(f"{place}: type code {value[0] if len(value) else 'absent'}: ids are whole numbers")
        start = 1
    if column.has_shape:
        # The upper six bits are the number of axes, the lower two the width of each length.
        code = value[start] if len(value) > start else 0
        start += 1 + (code >> 2) * (1 << (code & 3))
    width = np.dtype(dtype).itemsize
    if start > len(value) or (len(value) - start) % width:
        raise DataError(f"{place}: {len(value)} bytes of ids are not a header of {start} and whole {dtype}: damaged")
    return view_numbers(value, dtype, (len(value) - start) // width, start)
