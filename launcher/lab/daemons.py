"""Starts a lab's daemons, remembers them by process id and start time, and ends them."""

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.lab import daemon_program
from launcher.lab.inside import command_inside
from launcher.lab.lab_error import LabError
from launcher.lab.layout import Lab, Node
from launcher.lab.programs import SEARCH_PATH
from launcher.records import process_is_alive, read_json

_START_SECONDS = 60.0
_TERM_SECONDS = 5.0
_KILL_SECONDS = 10.0
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Daemon:
    """One daemon of a host."""

    name: str
    node: Node
    command: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return the name of its files, and of itself in messages."""
        return f"{self.node.name}.{self.name}"


def record_path(lab_directory: Path, daemon: Daemon) -> Path:
    """Return where a daemon's process id is."""
    return lab_directory / "daemons" / f"{daemon.label}.json"


def log_path(lab_directory: Path, daemon: Daemon) -> Path:
    """Return where a daemon writes to."""
    return lab_directory / "logs" / f"{daemon.label}.log"


def live_pid(record: Path) -> int | None:
    """Return the process id in a record if that very process runs."""
    values = read_json(record) or {}
    try:
        pid, create_time = int(values["pid"]), float(values["create_time"])
    except (KeyError, TypeError, ValueError):
        return None
    return pid if process_is_alive(pid, create_time) else None


def start_daemons(lab: Lab, daemons: Sequence[Daemon]) -> None:
    """Start those that do not run, at the same time. Raises LabError with what the first failed one said."""
    idle = [daemon for daemon in daemons if live_pid(record_path(lab.directory, daemon)) is None]
    for daemon, process in [(daemon, _start(lab, daemon)) for daemon in idle]:
        try:
            _, said = process.communicate(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LabError(f"lab: starting {daemon.label}: nothing happened in {_START_SECONDS:.0f} s") from None
        if process.returncode:
            raise LabError(f"lab: starting {daemon.label}: {said.strip()}")


def _start(lab: Lab, daemon: Daemon) -> "subprocess.Popen[str]":
    files = [str(record_path(lab.directory, daemon)), str(log_path(lab.directory, daemon))]
    command = [sys.executable, "-I", "-S", str(daemon_program.__file__), *files, "--", *daemon.command]
    return subprocess.Popen(
        command_inside(daemon.node, command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": SEARCH_PATH, "HOME": "/root", "LANG": "C.UTF-8", **lab.environment},  # nothing of the caller's
        cwd="/",
    )


def check_alive(lab: Lab, daemon: Daemon) -> None:
    """Raise LabError with the end of its log if a daemon has ended."""
    if live_pid(record_path(lab.directory, daemon)) is None:
        raise LabError(f"lab: {daemon.label} has ended; its log says:\n{log_tail(lab, daemon)}")


def log_tail(lab: Lab, daemon: Daemon) -> str:
    """Return the end of a daemon's log."""
    try:
        return log_path(lab.directory, daemon).read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_BYTES:]
    except FileNotFoundError:
        return "(no log)"


def end_recorded_daemons(lab_directory: Path) -> None:
    """End every daemon whose record is there and who still runs: politely, then not. Raises LabError if one stays."""
    processes = []
    for record in sorted((lab_directory / "daemons").glob("*.json")):
        pid = live_pid(record)
        if pid is not None:
            processes.append(psutil.Process(pid))
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, _TERM_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(alive, _KILL_SECONDS)
    if alive:
        raise LabError(f"lab: daemons {[process.pid for process in alive]} were killed and have not ended")
