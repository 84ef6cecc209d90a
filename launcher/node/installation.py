"""What program a node would run: all nodes of an attempt must have the same."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "deepspeed")
_SOURCES = ("cluster", "data_pipeline", "launcher", "llama_dist")


def describe_installation() -> dict[str, str]:
    """Versions, and a hash over this program's own source files."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {"llama-dist sources": _source_hash(), "python": platform.python_version(), **versions}


def compare_installations(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """What differs, both sides told; empty where nothing does."""
    return ", ".join(
        f"{name} is {theirs.get(name)}, here {ours[name]}" for name in ours if theirs.get(name) != ours[name]
    )


def _source_hash() -> str:
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in _SOURCES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
