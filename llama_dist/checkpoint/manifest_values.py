"""Checks what a manifest says before records are made of it: types, ranges, names. Pure; reads no file.

The manifest's checksum shows damage and not who wrote it, so nothing in it is believed.
"""

from pathlib import Path
from typing import Any

_RESERVED_NAMES = ("manifest.json", "uploaded.json")
"""What else lies in a checkpoint's directory; names that begin with a dot are of files that are being written."""

_MOST = 2**63
"""No number of a manifest is as large: past it a float overflows, or a tensor's size."""

_LEAST_SCALARS = {"last_overflow_iter": -1}  # DeepSpeed's loss scaler before the first overflow; all others begin at 0


def check_files(files: Any) -> None:
    """Raise ValueError unless these are file records with distinct names inside the directory."""
    names = set()
    for file in _list(files, "files"):
        name = _field(file, "name", str)
        if not name or name in (".", "..") or Path(name).name != name or "\0" in name:
            raise ValueError(f"file name {name!r} leads out of the checkpoint")
        if name.startswith(".") or name in _RESERVED_NAMES:
            raise ValueError(f"file name {name!r} is taken")
        if name in names:
            raise ValueError(f"file {name} is listed twice")
        names.add(name)
        _natural(file, "num_bytes")
        _field(file, "checksum", str)
        if "host" in file:
            _field(file, "host", str)


def check_tensors(tensors: Any, num_files: int) -> None:
    """Raise ValueError unless every parameter is tiled by its pieces, and each piece lies in a file of the manifest."""
    if not isinstance(tensors, dict):
        raise ValueError(f"tensors: holds {type(tensors).__name__}, needs an object")
    for name, record in tensors.items():
        num_elements = 1
        for size in _list(_field(record, "shape", list), name):
            if type(size) is not int or not 0 < size < _MOST:
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
    """Raise ValueError unless counts are counts, scalars are numbers in range and sections are objects."""
    for key in ("step", "tokens_seen"):
        _natural(values, key)
    _field(values, "code_revision", str)
    for key in ("config", "world", "data", "scalars"):
        _field(values, key, dict)
    _field({"life": ""} | values, "life", str)
    if "tracking" in values:
        _field(values, "tracking", dict)
    for key in values["world"]:
        _natural(values["world"], key)
    for key in values["scalars"]:
        _number(values["scalars"], key, least=_LEAST_SCALARS.get(key, 0))
    if values.get("held_out_loss") is not None:
        _number(values, "held_out_loss")
    if values.get("former_save_seconds") is not None:
        _number(values, "former_save_seconds", least=0)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: holds {type(value).__name__}, needs a list")
    return value


def _field(record: Any, key: str, kind: type) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{key}: {value!r:.80}, needs {kind.__name__}")
    return value


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold, NaN and the infinities among them."""
    return type(value) is float or (type(value) is int and -_MOST < value < _MOST)


def _number(record: dict[str, Any], key: str, *, least: float | None = None) -> None:
    """Raise ValueError unless it is a number; with `least` a finite one of at least that."""
    value = record[key]
    if not _is_number(value) or (least is not None and not least <= value < _MOST):
        raise ValueError(f"{key}: {value!r:.80}, needs a number" + ("" if least is None else f" of at least {least}"))


def _natural(record: Any, key: str) -> int:
    value = record.get(key) if isinstance(record, dict) else None
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError(f"{key}: {value!r:.80}, needs a number of at least 0")
    return value
