"""Which life of its name a run is in, and how far that one has saved: two small files of the run directory.

A life begins at step 0. Its token keeps its copies in a store apart from those of what the run was before `--fresh`,
and of another run of the same name. What it has saved is known here when its checkpoints are gone.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_dist.config.run_directory import RunDirectory

_LIFE_PATTERN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


@dataclass(frozen=True)
class Saved:
    """What a life is known to have saved."""

    step: int | None
    """Step of the newest checkpoint that was good when this was written; None before the first."""


def is_life(token: str) -> bool:
    """Whether this is a token: when the life began in UTC, and what no other has. Their order is that of time."""
    return _LIFE_PATTERN.fullmatch(token) is not None


def begin_life(run: RunDirectory) -> None:
    """Begin a life that has saved nothing. Raises OSError."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    continue_life(run, f"{now}-{secrets.token_hex(4)}")


def continue_life(run: RunDirectory, life: str) -> None:
    """Let the run be in this life, of which nothing is known here. Raises OSError."""
    _write(run.life, {"life": life})
    note_saved(run, None)


def read_life(run: RunDirectory) -> str:
    """Token of the run's life; empty where it has none: it is new, or its directory was lost."""
    life = _read(run.life).get("life")
    return life if isinstance(life, str) and is_life(life) else ""


def note_saved(run: RunDirectory, step: int | None) -> None:
    """Write down that the checkpoint of `step` exists and is good. Raises OSError."""
    _write(run.saved, {"life": read_life(run), "step": step})


def read_saved(run: RunDirectory) -> Saved | None:
    """What the run's life has saved; None where nothing was written down of this life."""
    values = _read(run.saved)
    step = values.get("step")
    if values.get("life") != read_life(run) or not (step is None or type(step) is int):
        return None
    return Saved(step)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Replace the file, readable by its owner alone, and wait until the disk has it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
