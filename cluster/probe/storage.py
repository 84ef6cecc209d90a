"""What this node sees of disks, datasets and config files. Reads only, and never a whole dataset."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_MAX_SHARDS = 20_000  # their sizes are asked one by one; on a network file system that takes a few seconds


def describe_place(path: Path, *, count_bytes: bool) -> dict[str, Any]:
    """Describe the disk that a directory lies on, or would lie on: its nearest parent that exists is looked at.

    What is below the directory is counted only if asked for: a place of many runs may hold millions of files.
    """
    try:
        existing = nearest_existing(path)
        disk = os.statvfs(existing)
    except OSError as error:
        return {"fault": f"{error.filename or path}: {error.strerror}"}
    return {
        "existing": str(existing),
        "is_writable": os.access(existing, os.W_OK | os.X_OK) and not disk.f_flag & os.ST_RDONLY,
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "used_bytes": _bytes_below(path) if count_bytes else 0,
    }


def nearest_existing(path: Path) -> Path:
    """Return the directory, or its nearest parent that is one. Raises OSError where one may not be looked at."""
    for parent in (path, *path.parents):
        try:
            if parent.stat() and parent.is_dir():
                return parent
        except FileNotFoundError:
            continue
    return Path("/")


def describe_dataset(directory: Path) -> dict[str, Any]:
    """Describe a prepared dataset by its manifest and the sizes of its shards, or say why it cannot be read."""
    manifest = directory / "manifest.json"
    try:
        content = manifest.read_bytes()
        values = json.loads(content)
        num_shards, num_bytes = _shards(directory / "shards")
        _read_first_byte(directory / "shards.arrow")
    except OSError as error:
        return {"fault": f"{error.filename or manifest}: {error.strerror}"}
    except ValueError:
        return {"fault": f"{manifest}: is not JSON: damaged, or cut off"}
    fingerprint = values.get("fingerprint") if isinstance(values, dict) else None
    if not isinstance(fingerprint, str):
        return {"fault": f"{manifest}: names no fingerprint, so it is not of a prepared dataset"}
    return {
        "fingerprint": fingerprint,
        "manifest_hash": hashlib.sha256(content).hexdigest(),
        "num_shards": num_shards,
        "num_bytes": num_bytes,
    }


def hash_file(path: Path) -> str | None:
    """Return the SHA-256 of a file; None where there is none that can be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _shards(directory: Path) -> tuple[int, int]:
    """Count the shards and their bytes, and read a byte of the first and the last. Raises OSError."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    if names:
        _read_first_byte(directory / names[0])
        _read_first_byte(directory / names[-1])
    return len(names), sum((directory / name).stat().st_size for name in names[:_MAX_SHARDS])


def _read_first_byte(path: Path) -> None:
    with path.open("rb") as file:
        file.read(1)


def _bytes_below(directory: Path) -> int:
    """Bytes of the files below a directory; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:
                continue
    return total
