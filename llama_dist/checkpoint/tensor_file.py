"""The header of a safetensors file: where each piece lies, checked before anything is read by it. Imports no torch.

A checksum shows damage and not who wrote a file, so the header is believed in nothing.
"""

import json
from collections.abc import Iterable
from typing import Any

from llama_dist.checkpoint.regular_file import read_into

SUFFIX = ".safetensors"
ITEM_BYTES = 4
LENGTH_BYTES = 8
DTYPE = "F32"


def tensor_key(name: str, state: str, offset: int) -> str:
    """Name of one piece inside a file."""
    return f"{name}:{state}:{offset}"


def read_starts(descriptor: int, num_bytes: int, wanted: Iterable[tuple[str, int]]) -> dict[str, int]:
    """First byte in the file of each wanted piece, given as (key, elements); the file has `num_bytes`.

    Raises ValueError that says what the file has and what is needed, OSError where it cannot be read.
    """
    entries, data_start = _read_header(descriptor, num_bytes)
    data_bytes = num_bytes - data_start
    return {key: data_start + _start_of(entries, key, num_elements, data_bytes) for key, num_elements in wanted}


def _read_header(descriptor: int, num_bytes: int) -> tuple[dict[str, Any], int]:
    length = bytearray(LENGTH_BYTES)
    if num_bytes < LENGTH_BYTES:
        raise ValueError(f"has {num_bytes} bytes, a safetensors header needs at least {LENGTH_BYTES}")
    read_into(descriptor, memoryview(length), 0)
    header_bytes = int.from_bytes(length, "little")
    if header_bytes > num_bytes - LENGTH_BYTES:
        raise ValueError(f"says that its header has {header_bytes} bytes, the whole file has {num_bytes}")
    text = bytearray(header_bytes)
    read_into(descriptor, memoryview(text), LENGTH_BYTES)
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("has a header that is not JSON") from None
    if not isinstance(entries, dict):
        raise ValueError(f"has a header that holds {type(entries).__name__}, needs a JSON object")
    return entries, LENGTH_BYTES + header_bytes


def _start_of(entries: dict[str, Any], key: str, num_elements: int, data_bytes: int) -> int:
    if key not in entries:
        raise ValueError(f"lacks {key}, which the manifest places in it")
    entry = entries[key]
    if not isinstance(entry, dict):
        raise ValueError(f"describes {key} by {type(entry).__name__}, needs a JSON object")
    if entry.get("dtype") != DTYPE:
        raise ValueError(f"has {key} as {entry.get('dtype')!r}, needs {DTYPE}")
    if entry.get("shape") != [num_elements]:
        raise ValueError(f"has {key} with shape {entry.get('shape')!r}, the manifest says [{num_elements}]")
    offsets = entry.get("data_offsets")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
        raise ValueError(f"has {key} at {offsets!r}, needs [first byte, last byte + 1]")
    start, end = offsets
    if not 0 <= start <= end <= data_bytes or end - start != num_elements * ITEM_BYTES:
        raise ValueError(
            f"has {key} at bytes {start} to {end}, needs {num_elements * ITEM_BYTES} bytes inside its {data_bytes}"
        )
    return int(start)
