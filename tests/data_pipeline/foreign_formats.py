"""Writes other programs' dataset formats from their descriptions alone, for the tests of the import."""

import struct
from itertools import accumulate
from pathlib import Path

import numpy as np

MEGATRON_CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write_megatron(prefix: Path, documents: list[list[list[int]]], dtype: str = "uint16") -> None:
    """Write documents, each a list of sequences of ids, as PREFIX.bin and PREFIX.idx."""
    sequences = [sequence for document in documents for sequence in document]
    width = np.dtype(dtype).itemsize
    prefix.with_name(f"{prefix.name}.bin").write_bytes(b"".join(np.array(one, dtype).tobytes() for one in sequences))
    bounds = [0, *accumulate(len(document) for document in documents)]
    offsets = list(accumulate((len(one) * width for one in sequences), initial=0))[:-1]
    content = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", MEGATRON_CODES[dtype])
    content += struct.pack("<QQ", len(sequences), len(bounds))
    content += np.array([len(one) for one in sequences], "<i4").tobytes()
    content += np.array(offsets, "<i8").tobytes() + np.array(bounds, "<i8").tobytes()
    prefix.with_name(f"{prefix.name}.idx").write_bytes(content)
