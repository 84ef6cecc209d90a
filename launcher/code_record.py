"""What code an attempt ran: git revision and changes, Python, every installed package. Runs nothing but git."""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from cluster.software import GIT, GIT_TIMEOUT_SECONDS, PACKAGES, git_state, package_versions
from launcher.records import write_json

_MOST_DIFF_BYTES = 1 << 20  # a source change is small; past this somebody has committed data
_TRUNCATED = b"\n[cut here: the changes are larger than 1 MiB]\n"


def write_code(directory: Path, source: Path) -> None:
    """Write `code.json`, `packages.json` and, of a work tree with changes, `code.diff`; for the owner alone."""
    code = describe_code(source)
    write_json(directory / "code.json", code)
    write_json(directory / "packages.json", installed_packages())
    if code["git_dirty"]:
        _write_private(directory / "code.diff", _git_diff(source))


def describe_code(source: Path) -> dict[str, Any]:
    """Return what an attempt runs: the git revision where `source` is a work tree, and the versions."""
    revision, dirty = git_state(source)
    return {
        "git_revision": revision,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": package_versions((*PACKAGES, "mlflow")),
    }


def installed_packages() -> dict[str, str]:
    """Return name and version of everything installed, by name, as the names of the metadata directories tell.

    They are listed and not read: some hundred files would take a good part of the time to the first step.
    """
    found: dict[str, str] = {}
    for directory in map(Path, sys.path):
        for suffix in (".dist-info", ".egg-info"):
            for path in directory.glob(f"*{suffix}"):
                name, _, number = path.name.removesuffix(suffix).partition("-")
                if number:  # an editable install leaves a directory without one in its source tree
                    found.setdefault(name.replace("_", "-").lower(), number)  # the first in the path is imported
    return dict(sorted(found.items()))


def _git_diff(source: Path) -> bytes:
    """Return the changes against HEAD, no more than a part of what is very large."""
    command = [*GIT, "-C", str(source), "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv"]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            limit = threading.Timer(GIT_TIMEOUT_SECONDS, process.kill)
            limit.start()
            content = process.stdout.read(_MOST_DIFF_BYTES + 1)
            limit.cancel()
            process.kill()  # it may have more to say
    except OSError:
        return b""
    return content if len(content) <= _MOST_DIFF_BYTES else content[:_MOST_DIFF_BYTES] + _TRUNCATED


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
