"""What program a node would run: all nodes of an attempt must have the same."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.software import hash_sources

_PACKAGES = ("torch", "deepspeed")
_ROOT = Path(__file__).resolve().parents[2]
_SHOWN_CHARACTERS = 16  # of a hash, for people: enough to tell programs apart


def describe_installation() -> dict[str, str]:
    """Versions, and a hash over this program's own source files."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "llama-dist sources": hash_sources(_ROOT)[:_SHOWN_CHARACTERS],
        "python": platform.python_version(),
        **versions,
    }


def compare_installations(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """What differs, both sides told; empty where nothing does."""
    return ", ".join(
        f"{name} is {theirs.get(name)}, here {ours[name]}" for name in ours if theirs.get(name) != ours[name]
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
