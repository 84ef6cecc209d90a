"""What program this is: Python, versions of the packages, hash and git revision of our own sources. Imports none."""

import functools
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "deepspeed",
    "numpy",
    "pyarrow",
    "safetensors",
    "sentencepiece",
    "pydantic",
    "llama-dist",
)
OUR_PACKAGES = ("cluster", "data_pipeline", "launcher", "llama_dist")
_SUFFIXES = frozenset({".py", ".txt"})  # code, and the word lists that it reads
# A work tree's own settings must not start programs: external diffs, converters, a file-system monitor.
GIT = ("git", "-c", "core.fsmonitor=false")
GIT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class SoftwareFacts:
    """What two nodes must have alike to be parts of one run."""

    python: str
    executable: str
    packages: dict[str, str | None]
    """Name to version; None for one that is not installed."""

    code_directory: str
    code_hash: str
    """SHA-256 over the names and bytes of the files of our packages."""

    git_revision: str | None
    git_dirty: bool | None


@functools.cache
def read_software_facts() -> SoftwareFacts:
    """Look at this process's interpreter and at the sources that it runs: once, some tens of milliseconds."""
    source = Path(__file__).resolve().parent.parent
    revision, dirty = git_state(source)
    return SoftwareFacts(
        python=platform.python_version(),
        executable=sys.executable,
        packages=package_versions(PACKAGES),
        code_directory=str(source),
        code_hash=hash_sources(source),
        git_revision=revision,
        git_dirty=dirty,
    )


def hash_sources(source: Path) -> str:
    """Hash the files that our packages below `source` are made of, in the order of their names."""
    digest = hashlib.sha256()
    for package in OUR_PACKAGES:
        for path in sorted((source / package).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                content = path.read_bytes()
                digest.update(f"{path.relative_to(source)}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()


def git_state(source: Path) -> tuple[str | None, bool | None]:
    """Return the revision of the work tree `source`, and whether tracked files differ from it; None if git cannot say.

    A work tree around an installed package says nothing about the package: only `source` itself is asked about.
    """
    if not (source / ".git").exists():
        return None, None
    revision = _git(source, "rev-parse", "HEAD")
    changes = _git(source, "status", "--porcelain", "--untracked-files=no") if revision else None
    return revision, None if changes is None else bool(changes)


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return name to version of each; None for one that is not installed."""
    return {name: _version(name) for name in names}


def _git(source: Path, *arguments: str) -> str | None:
    command = [*GIT, "-C", str(source), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or a work tree that it does not trust
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
