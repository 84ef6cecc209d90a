"""Asks the ranks of this host where their threads stand, and answers their text. Judges nothing, ends nothing.

A rank answers SIGUSR2 by its own file (`llama_dist/runtime/stacks.py`), also while native code holds the interpreter's
lock. One that cannot answer, stopped or inside the kernel, is looked at from outside.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from launcher.records import Heartbeat, process_state

NO_ANSWER = "no answer to SIGUSR2"
"""How the text of a rank begins that did not speak for itself."""

_POLL_SECONDS = 0.05
_CANNOT_ANSWER = frozenset("TtDZ")
_SHARE_OF_TIME_TO_ANSWER = 0.5  # the other half is for looking at those that did not
_MAX_TEXT_BYTES = 1 << 20
_MAX_LOOKS_AT_ONCE = 8


def collect_stacks(ranks: Mapping[int, Heartbeat], directory: Path, seconds: float) -> dict[int, str]:
    """Return the stacks of each rank's threads; for one that gives none, what the kernel says of it.

    `ranks` are of this host, `directory` holds their stack files. Takes `seconds` at most, and less if all answer.
    """
    deadline = time.monotonic() + seconds * _SHARE_OF_TIME_TO_ANSWER
    files = {rank: directory / f"rank_{rank:05d}.txt" for rank in ranks}
    sizes = {rank: _size(path) for rank, path in files.items()}
    asked = {rank for rank, beat in ranks.items() if _ask(beat)}
    _wait_until_written({files[rank]: sizes[rank] for rank in asked}, deadline)
    texts = {rank: _read_from(files[rank], sizes[rank]) for rank in asked}
    silent = {rank: beat for rank, beat in ranks.items() if not texts.get(rank)}
    with ThreadPoolExecutor(_MAX_LOOKS_AT_ONCE) as pool:
        looks = pool.map(lambda beat: _look_from_outside(beat, seconds / 2), silent.values())
        return texts | dict(zip(silent, looks, strict=True))


def _ask(beat: Heartbeat) -> bool:
    """Send SIGUSR2 to that very process, where it listens: it would end one that does not."""
    state = process_state(beat.pid, beat.create_time)
    if not state or state in _CANNOT_ANSWER or not _catches(beat.pid, signal.SIGUSR2):
        return False
    try:
        psutil.Process(beat.pid).send_signal(signal.SIGUSR2)
    except (psutil.Error, OSError):
        return False
    return True


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal (proc(5), SigCgt)."""
    caught = _read_proc(pid, "status").partition("SigCgt:")[2].split()
    return bool(caught) and bool(int(caught[0], 16) >> (number - 1) & 1)


def _wait_until_written(sizes_before: Mapping[Path, int], deadline: float) -> None:
    """Wait until each file has grown, and has stopped growing."""
    last: dict[Path, int] = {}
    while time.monotonic() < deadline:
        now = {path: _size(path) for path in sizes_before}
        if now == last and all(now[path] > size for path, size in sizes_before.items()):
            return
        last = now
        time.sleep(_POLL_SECONDS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read_from(path: Path, start: int) -> str:
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(start)
            return file.read(_MAX_TEXT_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _look_from_outside(beat: Heartbeat, seconds: float) -> str:
    """Say what the kernel knows of a process, and its stacks where py-spy is installed and may read them."""
    state = process_state(beat.pid, beat.create_time)
    if not state:
        return f"{NO_ANSWER}: process {beat.pid} is gone\n"
    facts = {name: _read_proc(beat.pid, name).strip() for name in ("wchan", "syscall")}
    told = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    return f"{NO_ANSWER}: process {beat.pid} is in state {state}, {told}\n{_spy(beat.pid, seconds)}"


def _spy(pid: int, seconds: float) -> str:
    """Return py-spy's dump, read from the process's memory without stopping it; nothing where that cannot be had."""
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")
    if program is None:
        return ""
    command = [program, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=seconds, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return ""  # not allowed to read another process, or a stack that changed under its eyes
    return answer.stdout[:_MAX_TEXT_BYTES].decode("utf-8", errors="replace")


def _read_proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
