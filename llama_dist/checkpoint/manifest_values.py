"""Checks what a manifest says before records are made of it: types, ranges, names. Pure; reads no file.

The manifest's checksum shows damage and not who wrote it, so nothing in it is believed.
"""

from pathlib import Path
from typing import Any


def check_files(files: Any) -> None:
    """Raise ValueError unless these are file records with distinct names inside the directory."""
    names = set()
    for file in _list(files, "files"):
        name = _field(file, "name", str)
        if not name or name in (".", "..") or Path(name).name != name or "\0" in name:
            raise ValueError(f"file name {name!r} leads out of the checkpoint")
        if name in names:
            raise ValueError(f"file {name} is listed twice")
        names.add(name)
        _natural(file, "num_bytes")
        _field(file, "checksum", str)


def check_tensors(tensors: Any, num_files: int) -> None:
    """Raise ValueError unless every parameter is tiled by its pieces, and each piece lies in a file of the manifest."""
    if not isinstance(tensors, dict):
        raise ValueError(f"tensors: holds {type(tensors).__name__}, needs an object")
    for name, record in tensors.items():
        num_elements = 1
        for size in _list(_field(record, "shape", list), name):
            if type(size) is not int or size < 0:
                raise ValueError(f"{name}: shape {record['shape']!r}")
            num_elements *= size
        end = 0
        for piece in _field(record, "pieces", list):
            if _natural(piece, "file") >= num_files:
                raise ValueError(f"{name}: a piece lies in file {piece['file']}, the manifest names {num_files}")
            if _natural(piece, "offset") != end:
                raise ValueError(f"{name}: a piece starts at {piece['offset']}, the one before ends at {end}")
            end += _natural(piece, "length")
        if end != num_elements:
            raise ValueError(f"{name}: its pieces cover {end} of {num_elements} elements")


def check_progress(values: dict[str, Any]) -> None:
    """Raise ValueError unless counts are counts, scalars are numbers and sections are objects."""
    for key in ("step", "tokens_seen"):
        _natural(values, key)
    for key in ("config", "world", "data", "scalars"):
        _field(values, key, dict)
    _field({"life": ""} | values, "life", str)
    for key, value in values["scalars"].items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"scalars: {key} is {value!r}, needs a number")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: holds {type(value).__name__}, needs a list")
    return value


def _field(record: Any, key: str, kind: type) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{key}: {value!r:.80}, needs {kind.__name__}")
    return value


def _natural(record: Any, key: str) -> int:
    value = record.get(key) if isinstance(record, dict) else None
    if type(value) is not int or value < 0:
        raise ValueError(f"{key}: {value!r:.80}, needs a number of at least 0")
    return value
