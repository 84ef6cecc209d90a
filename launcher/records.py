"""The small JSON files through which supervisor, ranks, shipper and `status` know of each other.

Reading never fails on a file that is absent, half-written or of another shape: it answers None.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import psutil

State = Literal["starting", "running", "backing_off", "done", "failed", "stopped"]
TERMINAL_STATES = frozenset({"done", "failed", "stopped"})

_SAME_START_SECONDS = 2.0  # a start time is computed from the boot time, which a clock correction moves


@dataclass(frozen=True)
class SupervisorRecord:
    """`supervisor.json`: what the supervisor is, does and decided."""

    pid: int
    create_time: float
    host: str
    attempt: int
    state: State
    exit_code: int | None
    reason: str
    updated: float


@dataclass(frozen=True)
class Heartbeat:
    """`heartbeats/rank_00000.json`: where a rank stood at its last sign of life."""

    pid: int
    create_time: float
    host: str
    attempt: int
    step: int
    phase: str
    time: float
    micro_batch: int = 0


@dataclass(frozen=True)
class ExitRecord:
    """`attempts/0001/exits/rank_00000.json`: what a rank said when it ended by itself."""

    rank: int
    exit_code: int
    reason: str
    step: int | None
    host: str
    time: float
    error: str = ""
    """Class of the error that ended it."""


Record = TypeVar("Record")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace `path` atomically, readable by its owner alone."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically, readable by its owner alone."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in `path`, or None."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_supervisor(path: Path, record: SupervisorRecord) -> None:
    """Replace `supervisor.json`."""
    write_json(path, asdict(record))


def read_supervisor(path: Path) -> SupervisorRecord | None:
    """Read `supervisor.json`."""
    return read_record(SupervisorRecord, path)


def read_heartbeats(directory: Path) -> dict[int, Heartbeat]:
    """Read the newest sign of life of each rank, of whichever attempt."""
    return {rank: beat for rank, path in _rank_files(directory) if (beat := read_heartbeat(path))}


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Read the newest sign of life of one rank."""
    return read_record(Heartbeat, path)


def read_exit_records(directory: Path) -> dict[int, ExitRecord]:
    """Read what the ranks of one attempt said when they ended."""
    return {rank: record for rank, path in _rank_files(directory) if (record := read_record(ExitRecord, path))}


def read_record(kind: type[Record], path: Path) -> Record | None:
    """Build a record, a dataclass of plain fields, from the file; None where one is absent or of another type."""
    values = read_json(path)
    if values is None:
        return None
    try:
        return kind(**{field.name: _value(field, values) for field in fields(kind)})  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return None


def process_is_alive(pid: int, create_time: float) -> bool:
    """Whether that very process runs, not a later one that was given the same pid."""
    return process_state(pid, create_time) not in ("", "Z")


def process_state(pid: int, create_time: float) -> str:
    """Return the letter of /proc/PID/stat; empty where that very process is gone, whoever has its pid now."""
    try:
        is_same = abs(psutil.Process(pid).create_time() - create_time) < _SAME_START_SECONDS
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace") if is_same else ""
    except (psutil.Error, OSError):
        return ""
    return stat.rpartition(")")[2].strip()[:1]  # the name before it may hold blanks and brackets


def _rank_files(directory: Path) -> list[tuple[int, Path]]:
    files = ((path.stem.removeprefix("rank_"), path) for path in sorted(directory.glob("rank_*.json")))
    return [(int(number), path) for number, path in files if number.isdigit()]


def _value(field: Field[Any], values: Mapping[str, Any]) -> Any:
    if field.name not in values and field.default is not MISSING:
        return field.default
    return _READERS[field.type](values[field.name])


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _state(value: Any) -> State:
    if value not in get_args(State):
        raise ValueError(value)
    state: State = value
    return state


_READERS: dict[Any, Callable[[Any], Any]] = {
    int: int,
    float: float,
    str: str,
    bool: _bool,
    int | None: _optional_int,
    State: _state,
}
