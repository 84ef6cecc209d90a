"""Reads ranges of flattened tensors out of a checkpoint's files, straight into the tensors that want them.

By `preadv`, not through a map: one copy as well, and a disk that fails is an error here and no signal that ends the
process. Several threads, as reading lets them run. What was verified before is looked at again only as far as it
decides where to read.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from llama_dist.checkpoint.manifest import CheckpointError, FileRecord, Manifest
from llama_dist.checkpoint.regular_file import open_regular, read_into
from llama_dist.checkpoint.tensor_file import ITEM_BYTES, read_starts, tensor_key

_MOST_THREADS = 4
_READ_ELEMENTS = 1 << 22
"""Elements (16 MiB) that one thread reads at once."""

_MOST_OPEN_FILES = 64


@dataclass(frozen=True)
class Wanted:
    """Elements [offset, offset + len(target)) of one flattened state, and the live fp32 tensor [length] for them."""

    name: str
    state: str
    offset: int
    target: torch.Tensor


@dataclass(frozen=True)
class _Read:
    """A part of one piece: `start` elements after its beginning, into `target`."""

    key: str
    piece_length: int
    start: int
    target: torch.Tensor


def num_threads() -> int:
    """Threads that read or hash at once on behalf of one rank."""
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


def files_needed(manifest: Manifest, ranges: Iterable[tuple[str, int, int]]) -> set[int]:
    """Numbers of the files that hold any of the ranges, given as (parameter, offset, length)."""
    return {
        piece_file for name, offset, length in ranges for piece_file, *_ in _overlaps(manifest, name, offset, length)
    }


def read_ranges(directory: Path, manifest: Manifest, wanted: Iterable[Wanted]) -> None:
    """Fill every target, with zeros where the checkpoint holds none of its state.

    Raises CheckpointError that names the file that cannot be read, or is not what the manifest says.
    """
    reads: dict[int, list[_Read]] = {}
    for one in wanted:
        if one.state not in manifest.states:
            one.target.zero_()
            continue
        for file, piece_offset, piece_length, start, end in _overlaps(
            manifest, one.name, one.offset, one.target.numel()
        ):
            target = one.target[start - one.offset : end - one.offset]
            key = tensor_key(one.name, one.state, piece_offset)
            reads.setdefault(file, []).append(_Read(key, piece_length, start - piece_offset, target))
    files = sorted(reads)
    with ThreadPoolExecutor(num_threads()) as executor:
        for first in range(0, len(files), _MOST_OPEN_FILES):
            with ExitStack() as stack:
                parts: list[tuple[Path, int, int, torch.Tensor]] = []
                for file in files[first : first + _MOST_OPEN_FILES]:
                    parts += _opened(stack, directory, manifest.files[file], reads[file])
                list(executor.map(_fill, parts))


def _overlaps(manifest: Manifest, name: str, offset: int, length: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(file, piece offset, piece length, start, end) of each piece that meets [offset, offset + length)."""
    for piece in manifest.tensors[name].pieces:
        start, end = max(offset, piece.offset), min(offset + length, piece.offset + piece.length)
        if start < end:
            yield piece.file, piece.offset, piece.length, start, end


def _opened(
    stack: ExitStack, directory: Path, record: FileRecord, reads: Sequence[_Read]
) -> Iterator[tuple[Path, int, int, torch.Tensor]]:
    """Open one file, and yield (path, descriptor, first byte, target) of what is read from it, in even parts."""
    path = directory / record.name
    try:
        descriptor, num_bytes = stack.enter_context(open_regular(path))
        if num_bytes != record.num_bytes:
            raise CheckpointError(f"{path}: {num_bytes} bytes, the manifest says {record.num_bytes}")
        starts = read_starts(descriptor, num_bytes, [(one.key, one.piece_length) for one in reads])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    for one in reads:
        first_byte = starts[one.key] + one.start * ITEM_BYTES
        for begin in range(0, one.target.numel(), _READ_ELEMENTS):
            part = one.target[begin : begin + _READ_ELEMENTS]
            yield path, descriptor, first_byte + begin * ITEM_BYTES, part


def _fill(part: tuple[Path, int, int, torch.Tensor]) -> None:
    path, descriptor, first_byte, target = part
    is_direct = target.device.type == "cpu" and target.dtype == torch.float32 and target.is_contiguous()
    buffer = target if is_direct else torch.empty(target.numel(), dtype=torch.float32)
    try:
        read_into(descriptor, buffer.detach().numpy().data.cast("B"), first_byte)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not is_direct:
        target.copy_(buffer)
