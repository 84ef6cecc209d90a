"""Reads a Megatron-LM indexed dataset: `PREFIX.idx` and `PREFIX.bin`. Writes nothing.

The format (megatron/core/datasets/indexed_dataset.py): the index starts with `MMIDIDX`, two zero bytes, version 1 as
uint64, a code of the id type as uint8, the number of sequences and of document bounds as uint64; then the int32 length
of each sequence, its int64 byte offset in the .bin file, and the int64 document bounds, counted in sequences. A
document is the sequences between two bounds, joined.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import DataError
from data_pipeline.interop.imported_corpus import ForeignFile, ImportedDocument, size_of, view_numbers

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
# Megatron's codes 6 and 7 are floating point: no token ids.
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
# Document bounds looked at together: large enough for numpy, small enough to forget.
_BOUNDS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class _Index:
    """The arrays of an .idx file, mapped."""

    dtype: str
    lengths: npt.NDArray[Any]
    offsets_bytes: npt.NDArray[Any]
    document_bounds: npt.NDArray[Any]


class MegatronCorpus:
    """The documents of one prefix. The files are mapped, so memory does not grow with them."""

    format_name = "megatron"
    holds_text = False

    def __init__(self, prefix: Path) -> None:
        """Open `PREFIX.bin` and `PREFIX.idx`. Raises DataError where they are cut off or do not belong together."""
        prefix = prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix
        self._index_path = prefix.with_name(f"{prefix.name}.idx")
        self._tokens_path = prefix.with_name(f"{prefix.name}.bin")
        self.files = tuple(ForeignFile(path.name, size_of(path)) for path in (self._index_path, self._tokens_path))
        self._index = _read_index(self._index_path, _map(self._index_path))
        self._tokens = _map(self._tokens_path)
        self._check_ends()

    def documents(self) -> Iterator[ImportedDocument]:
        """Yield the documents in the order of the document index; one without a sequence has no tokens."""
        bounds = self._index.document_bounds
        for first in range(0, len(bounds) - 1, _BOUNDS_AT_ONCE):
            some = bounds[first : first + _BOUNDS_AT_ONCE + 1].tolist()
            for number, (start, end) in enumerate(pairwise(some), first):
                yield self._document(number, start, end)

    def _document(self, number: int, start: int, end: int) -> ImportedDocument:
        if not 0 <= start <= end <= len(self._index.lengths):
            raise DataError(
                f"{self._index_path}: document {number} is sequences {start} to {end}, "
                f"the index has {len(self._index.lengths)}: the index is damaged"
            )
        parts = [self._sequence(sequence) for sequence in range(start, end)]
        ids = parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, self._index.dtype)])
        byte = int(self._index.offsets_bytes[start]) if start < end else 0
        return ImportedDocument(f"{self._tokens_path}: document {number} at byte {byte}", ids, ids.nbytes)

    def _sequence(self, number: int) -> npt.NDArray[Any]:
        length, offset = int(self._index.lengths[number]), int(self._index.offsets_bytes[number])
        num_bytes = length * np.dtype(self._index.dtype).itemsize
        if length < 0 or offset < 0 or offset + num_bytes > len(self._tokens):
            raise DataError(
                f"{self._index_path}: sequence {number} has {length} tokens at byte {offset} of "
                f"{self._tokens_path.name}, which has {len(self._tokens)} bytes: "
                "the .bin file was cut off, or the two files do not belong together"
            )
        return view_numbers(self._tokens, self._index.dtype, length, offset)

    def _check_ends(self) -> None:
        """Compare the two files before anything is read, so that a copy that was cut off is told at once."""
        index, width = self._index, np.dtype(self._index.dtype).itemsize
        bounds = index.document_bounds
        if not len(bounds) or int(bounds[0]) != 0 or int(bounds[-1]) != len(index.lengths):
            shown = f"{int(bounds[0])} to {int(bounds[-1])}" if len(bounds) else "nothing"
            raise DataError(
                f"{self._index_path}: the document bounds go from {shown}, needed 0 to {len(index.lengths)}, "
                "the number of sequences: the index is damaged"
            )
        end = int(index.offsets_bytes[-1]) + int(index.lengths[-1]) * width if len(index.lengths) else 0
        if end != len(self._tokens):
            raise DataError(
                f"{self._tokens_path}: {len(self._tokens)} bytes, {self._index_path.name} says {end}: "
                "it was cut off, or the two files do not belong together"
            )


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            # An empty file cannot be mapped.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size_of(path) else b"")
    except OSError as error:
        raise DataError(f"{path}: cannot be mapped: {error.strerror}") from None


def _read_index(path: Path, content: memoryview) -> _Index:
    magic = bytes(content[: len(_MAGIC)])
    if magic != _MAGIC:
        raise DataError(f"{path}: byte 0 holds {magic!r}, a Megatron index starts with {_MAGIC!r}")
    if len(content) < _HEADER.size:
        raise DataError(f"{path}: {len(content)} bytes, the header alone has {_HEADER.size}: cut off")
    _, version, code, num_sequences, num_bounds = _HEADER.unpack_from(content)
    if version != 1:
        raise DataError(f"{path}: version {version} of the format at byte {len(_MAGIC)}, this program reads version 1")
    if code not in _DTYPES:
        known = ", ".join(f"{number} ({name})" for number, name in _DTYPES.items())
        raise DataError(f"{path}: type code {code} at byte {len(_MAGIC) + 8}: token ids have one of {known}")
    needed = _HEADER.size + num_sequences * (4 + 8) + num_bounds * 8
    # A multimodal index has one more byte a sequence, its mode, at the end.
    if len(content) not in (needed, needed + num_sequences):
        raise DataError(
            f"{path}: {len(content)} bytes, {num_sequences} sequences and {num_bounds} document bounds need {needed}: "
            "the index was cut off or is damaged"
        )
    offsets = _HEADER.size + 4 * num_sequences
    return _Index(
        dtype=_DTYPES[code],
        lengths=view_numbers(content, "int32", num_sequences, _HEADER.size),
        offsets_bytes=view_numbers(content, "int64", num_sequences, offsets),
        document_bounds=view_numbers(content, "int64", num_bounds, offsets + 8 * num_sequences),
    )
