"""The files in `tasks/` by which a corpus is deduplicated: the hashes of a task's documents, and which of them stay.

Both end with the same tail, by which a damaged file or one of another preparation is known. Compares nothing.

A hash file holds blocks of 2**20 documents. In a block the hashes stand by their first byte, and in document order
within one byte: so those of some bytes are read in one piece a block, and no other.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.durable_file import open_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.preparation.task_record import TASKS_NAME

HASH_BYTES = 16
NUM_BUCKETS = 256
# What a task holds in memory at a time: 16 MiB of hashes, and as much while they are put in order.
_BLOCK_DOCUMENTS = 1 << 20
# Per document a hash and its place in the block; per block where each first byte begins, and the last ends.
_PLACE = np.dtype("<u4")
_DOCUMENT_BYTES = HASH_BYTES + _PLACE.itemsize
_BOUNDS_BYTES = (NUM_BUCKETS + 1) * _PLACE.itemsize
# Documents, digest of their hashes in order, preparation hash, checksum of all before it.
_TAIL = struct.Struct("<Q16s16s16s")
_CHECKSUM_BYTES = 16
_READ_BYTES = 1 << 20

Hashes = npt.NDArray[np.uint64]
"""Hashes as two big-endian halves, [n, 2]."""


@dataclass(frozen=True)
class Reached:
    """The documents of a task that reach the deduplication."""

    num_documents: int
    digest: bytes
    """xxh3_128 of their hashes in document order: tells whether a second reading found the same."""


@dataclass(frozen=True)
class HashFile:
    """The hashes of one task, read some first bytes at a time."""

    path: Path
    reached: Reached

    def read(self, first_bucket: int, stop_bucket: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Return the hashes with first bytes `first_bucket` up to but not `stop_bucket` [n, 2], and the numbers of
        their documents in the task [n]. Equal hashes stand in document order. Raises DataError if it is cut off.
        """
        hashes, numbers = [np.empty((0, 2), np.dtype(">u8"))], [np.empty(0, np.int64)]
        with self.path.open("rb") as file:
            for first_document in range(0, self.reached.num_documents, _BLOCK_DOCUMENTS):
                num_documents = min(_BLOCK_DOCUMENTS, self.reached.num_documents - first_document)
                start = first_document * _DOCUMENT_BYTES + first_document // _BLOCK_DOCUMENTS * _BOUNDS_BYTES
                bounds = self._part(file, start, NUM_BUCKETS + 1, _PLACE)
                first, stop = int(bounds[first_bucket]), int(bounds[stop_bucket])
                start += _BOUNDS_BYTES
                halves = self._part(file, start + first * HASH_BYTES, 2 * (stop - first), np.dtype(">u8"))
                start += num_documents * HASH_BYTES
                places = self._part(file, start + first * _PLACE.itemsize, stop - first, _PLACE)
                hashes.append(halves.reshape(-1, 2))
                numbers.append(places.astype(np.int64) + first_document)
        return np.concatenate(hashes).astype(np.uint64), np.concatenate(numbers)

    def _part(self, file: BinaryIO, start: int, count: int, kind: Any) -> npt.NDArray[Any]:
        file.seek(start)
        content = file.read(count * kind.itemsize)
        if len(content) != count * kind.itemsize:
            raise DataError(f"{self.path}: cut off while it was read: start again")
        return np.frombuffer(content, kind)


class HashFileWriter:
    """Takes the hashes of a task in document order."""

    def __init__(self, file: "_SealedWriter") -> None:
        self._file = file
        self._block = bytearray()
        self._digest = xxhash.xxh3_128()
        self._num_documents = 0

    def append(self, text_hash: bytes) -> None:
        """Add the next document's."""
        self._block += text_hash
        if len(self._block) == _BLOCK_DOCUMENTS * HASH_BYTES:
            self._flush()

    def finish(self) -> Reached:
        """Write what is left, and tell what was added."""
        if self._block:
            self._flush()
        return Reached(self._num_documents, self._digest.digest())

    def _flush(self) -> None:
        self._digest.update(self._block)
        rows = np.frombuffer(self._block, np.uint8).reshape(-1, HASH_BYTES)
        order = np.argsort(rows[:, 0], kind="stable")
        bounds = np.searchsorted(rows[order, 0], np.arange(NUM_BUCKETS + 1))
        for part in (bounds.astype(_PLACE), rows[order], order.astype(_PLACE)):
            self._file.write(part.tobytes())
        self._num_documents += len(rows)
        # Another one: the array keeps hold of the old.
        self._block = bytearray()


class KeptDocuments:
    """Answers for the transform `deduplicate`: asked for each document of one task in order."""

    def __init__(self, number: int, reached: Reached, bits: bytes) -> None:
        """`bits`: a bit for each document that reached it, set if it stays; the first in the highest bit."""
        self._number = number
        self._reached = reached
        self._bits = bits
        self._num_asked = 0
        self._digest = xxhash.xxh3_128()

    def __call__(self, text_hash: bytes) -> bool:
        """Whether the next document, of this hash, stays. Raises DataError if there was none at the first reading."""
        number = self._num_asked
        if number >= self._reached.num_documents:
            raise self._changed()
        self._num_asked += 1
        self._digest.update(text_hash)
        return bool(self._bits[number >> 3] & 0x80 >> (number & 7))

    def check_all_were_asked_for(self) -> None:
        """Raise DataError if the documents of the task were not those of the first reading."""
        if (self._num_asked, self._digest.digest()) != (self._reached.num_documents, self._reached.digest):
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            f"task {self._number}: other documents at the second reading ({self._num_asked} asked for) than at the "
            f"first ({self._reached.num_documents}): a file changed with its size and time kept, or another Python "
            "version reads it (its Unicode tables differ): start again with --restart"
        )


def hashes_path(output: Path, number: int) -> Path:
    """Return where the hashes of a task lie."""
    return output / TASKS_NAME / f"hashes-{number:05d}.bin"


def kept_path(output: Path, number: int) -> Path:
    """Return where it lies which documents of a task stay."""
    return output / TASKS_NAME / f"kept-{number:05d}.bin"


def numbers_of_hash_files(output: Path) -> set[int]:
    """Return the tasks that have a hash file, unread."""
    try:
        return {int(path.stem.removeprefix("hashes-")) for path in (output / TASKS_NAME).glob("hashes-*.bin")}
    except OSError as error:
        raise StorageError(f"{output / TASKS_NAME}: cannot be listed: {error.strerror or error}") from None


@contextmanager
def write_hash_file(output: Path, number: int, preparation_hash: str) -> Iterator[HashFileWriter]:
    """Write the hashes of a task; the file appears, whole and synced, when the block ends well."""
    with open_durably(hashes_path(output, number)) as file:
        sealed = _SealedWriter(file)
        writer = HashFileWriter(sealed)
        yield writer
        sealed.close(writer.finish(), preparation_hash)


def read_hash_file(output: Path, number: int, preparation_hash: str) -> HashFile | None:
    """Check the hash file of a task, reading all of it; None if it is to be made (again)."""
    path = hashes_path(output, number)
    reached = _read_sealed(path, preparation_hash)
    if reached is None:
        return None
    num_blocks = -(-reached.num_documents // _BLOCK_DOCUMENTS)
    body_bytes = reached.num_documents * _DOCUMENT_BYTES + num_blocks * _BOUNDS_BYTES
    return HashFile(path, reached) if path.stat().st_size == body_bytes + _TAIL.size else None


def write_kept(output: Path, number: int, preparation_hash: str, reached: Reached, bits: npt.NDArray[np.uint8]) -> None:
    """Write which documents of a task stay: `bits` as `KeptDocuments` takes them."""
    with open_durably(kept_path(output, number)) as file:
        sealed = _SealedWriter(file)
        sealed.write(bits.tobytes())
        sealed.close(reached, preparation_hash)


def read_kept(output: Path, number: int, preparation_hash: str) -> KeptDocuments | None:
    """Read which documents of a task stay; None if that is to be found (again)."""
    path = kept_path(output, number)
    reached = _read_sealed(path, preparation_hash)
    if reached is None:
        return None
    bits = path.read_bytes()[: -_TAIL.size]
    return KeptDocuments(number, reached, bits) if len(bits) == -(-reached.num_documents // 8) else None


class _SealedWriter:
    """Writes a file and its tail."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._checksum = xxhash.xxh3_128()

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._checksum.update(content)

    def close(self, reached: Reached, preparation_hash: str) -> None:
        self.write(
            _TAIL.pack(reached.num_documents, reached.digest, bytes.fromhex(preparation_hash), b"")[:-_CHECKSUM_BYTES]
        )
        self._file.write(self._checksum.digest())


def _read_sealed(path: Path, preparation_hash: str) -> Reached | None:
    """Read the tail if the whole file is what was written, for this preparation."""
    checksum = xxhash.xxh3_128()
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            left = num_bytes - _CHECKSUM_BYTES
            while left > 0 and (block := file.read(min(_READ_BYTES, left))):
                checksum.update(block)
                left -= len(block)
            file.seek(max(0, num_bytes - _TAIL.size))
            tail = file.read(_TAIL.size)
    except OSError:
        return None
    if len(tail) != _TAIL.size:
        return None
    num_documents, digest, whose, seen = _TAIL.unpack(tail)
    if (whose, seen) != (bytes.fromhex(preparation_hash), checksum.digest()):
        return None
    return Reached(num_documents, digest)
