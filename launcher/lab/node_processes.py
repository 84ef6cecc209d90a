"""Finds and ends what runs on a node: every process whose network namespace is the node's, and no other."""

import os
import signal
import time
from pathlib import Path

from launcher.lab.lab_error import LabError

_NAMESPACES = Path("/run/netns")
_END_SECONDS = 15.0  # a killed process may finish a disk write first
_POLL_SECONDS = 0.02


def pids_in(namespace: str) -> list[int]:
    """Return the processes of a namespace; none where the namespace is not there."""
    try:
        wanted = _identity(_NAMESPACES / namespace)
    except FileNotFoundError:
        return []
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _is_in(path, wanted)]


def end_processes_in(namespace: str) -> int:
    """Kill the processes of a namespace, and those that they start meanwhile, until none is left; answers how many.

    Raises LabError if some do not end.
    """
    if _identity(_NAMESPACES / namespace) == _identity(Path("/proc/self/ns/net")):
        raise LabError(f"lab: {namespace} is this machine's own network: nothing was ended")
    ended: set[int] = set()
    deadline = time.monotonic() + _END_SECONDS
    while pids := pids_in(namespace):
        if time.monotonic() > deadline:
            raise LabError(f"lab: processes {pids} of {namespace} were killed and have not ended")
        for pid in pids:
            _kill(pid, namespace)
        ended.update(pids)
        time.sleep(_POLL_SECONDS)
    return len(ended)


def _kill(pid: int, namespace: str) -> None:
    """Kill that process if it still is of the namespace: a descriptor stands for one process, a number for several."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_in(Path(f"/proc/{pid}"), _identity(_NAMESPACES / namespace)):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _is_in(process: Path, wanted: tuple[int, int]) -> bool:
    try:
        return _identity(process / "ns" / "net") == wanted
    except OSError:  # it has ended
        return False


def _identity(namespace_file: Path) -> tuple[int, int]:
    facts = namespace_file.stat()
    return facts.st_dev, facts.st_ino
