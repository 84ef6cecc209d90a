"""Where the pieces of one checkpoint file lie: a layout that every safetensors reader understands.

States come one after the other, so that the weights of a file are one range of it. Reads and writes no file.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch

from llama_dist.checkpoint.tensor_file import DTYPE, ITEM_BYTES, LENGTH_BYTES

ALIGNMENT_BYTES = 64
"""The tensors start at a multiple of this, as vector instructions and direct reads like it."""

CHUNK_BYTES = 1 << 24
"""What is hashed and written at once: each chunk asks for the interpreter's lock twice, so not too small."""


@dataclass(frozen=True)
class Slot:
    """One tensor of the file: its key, its elements, and its first byte in the file."""

    key: str
    num_elements: int
    start_byte: int


@dataclass(frozen=True)
class FileLayout:
    """A file's beginning (length of the header, header) and the slots that follow it without a gap."""

    header: bytes
    slots: tuple[Slot, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(slot.num_elements for slot in self.slots) * ITEM_BYTES


def lay_out(sizes: Iterable[tuple[str, int]]) -> FileLayout:
    """Lay out fp32 tensors, given as (key, elements), in this order."""
    entries, slots, end = {}, [], 0
    for key, num_elements in sizes:
        start, end = end, end + num_elements * ITEM_BYTES
        entries[key] = {"dtype": DTYPE, "shape": [num_elements], "data_offsets": [start, end]}
        slots.append((key, num_elements, start))
    assert len(entries) == len(slots), "a key occurs twice"
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT_BYTES)
    header = len(text).to_bytes(LENGTH_BYTES, "little") + text
    return FileLayout(header, tuple(Slot(key, size, len(header) + start) for key, size, start in slots))


def chunks_of(layout: FileLayout, tensors: Iterable[torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the file's content from `tensors`, which come in the order of the slots, without a copy of the whole.

    A tensor that is not fp32 in host memory is copied a chunk at a time.
    """
    return chain([layout.header], chain.from_iterable(_chunks_of_tensor(tensor) for tensor in tensors))


def cut(content: memoryview) -> Iterator[memoryview]:
    """Yield `content` in chunks."""
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


def _chunks_of_tensor(tensor: torch.Tensor) -> Iterator[memoryview]:
    flat, size = tensor.detach().reshape(-1), CHUNK_BYTES // ITEM_BYTES
    for start in range(0, flat.numel(), size):
        part = flat[start : start + size].to("cpu", torch.float32).contiguous()
        yield part.numpy().data.cast("B")
