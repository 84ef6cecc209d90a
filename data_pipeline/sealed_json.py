"""JSON files closed by a checksum of themselves, so that a damaged or edited one is told from a whole one."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError


def seal(values: dict[str, Any], key: str) -> bytes:
    """Return `values` as JSON whose last key, `key`, holds the xxh3_128 of all bytes before it."""
    body = json.dumps(values, indent=1).removesuffix("\n}").encode()
    return body + _seal_of(key) + checksum_bytes(body).encode() + b'"\n}\n'


def unseal(path: Path, content: bytes, key: str, *, remedy: str) -> dict[str, Any]:
    """Return the values that `seal` took. Raises DataError that says how the bytes of `path` differ from its work."""
    body, mark, rest = content.rpartition(_seal_of(key))
    if not mark:
        raise DataError(
            f"{path}: {len(content)} bytes without the closing checksum: cut off, or of another program: {remedy}"
        )
    seen, needed = checksum_bytes(body), rest[:32].decode("ascii", errors="replace")
    if seen != needed or rest[32:] != b'"\n}\n':
        raise DataError(
            f"{path}: damaged or edited: the checksum of bytes 0..{len(body)} is {seen}, "
            f"the one at byte {len(body) + len(mark)} says {needed}: {remedy}"
        )
    values: dict[str, Any] = json.loads(content)
    del values[key]
    return values


def _seal_of(key: str) -> bytes:
    # The last key of the file, so that the bytes before it can be hashed as they are.
    return f',\n "{key}": "'.encode()
