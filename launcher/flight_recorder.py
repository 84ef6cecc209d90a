"""Asks NCCL's flight recorder of the ranks on this host which collectives they were in. Reads no dump: it is a pickle.

`ProcessGroupNCCL.hpp`, struct DumpPipe (torch 2.13): with TORCH_NCCL_DEBUG_INFO_PIPE_FILE a rank makes the named pipe
`<stem><rank>.pipe` and looks into it once a second; whatever is written there makes it write its dump.
"""

import os
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from cluster.environment import FLIGHT_RECORDER_STEM

_POLL_SECONDS = 0.05

Mark = tuple[int, int]
"""Size of a file, and the time in nanoseconds at which it was written; zeros where there is none."""


def ask_recorders(log_directory: Path, ranks: Iterable[int]) -> dict[int, Mark]:
    """Ask each rank's recorder for a dump. Answers those that hear it, with the mark of the dump that they had."""
    marks = {rank: _mark(dump_path(log_directory, rank)) for rank in ranks}
    return {rank: mark for rank, mark in marks.items() if _ask(log_directory, rank)}


def wait_for_dumps(log_directory: Path, asked: Mapping[int, Mark], deadline: float) -> dict[int, Path]:
    """Wait until those that were asked have written, at most until `deadline` (`time.monotonic()`)."""
    written: dict[int, Path] = {}
    last: dict[int, Mark] = {}
    while len(written) < len(asked) and time.monotonic() < deadline:
        for rank in asked.keys() - written.keys():
            path = dump_path(log_directory, rank)
            mark = _mark(path)
            if mark not in ((0, 0), asked[rank]) and mark == last.get(rank):  # written anew, and to its end
                written[rank] = path
            last[rank] = mark
        time.sleep(_POLL_SECONDS)
    return written


def dump_path(log_directory: Path, rank: int) -> Path:
    """Return where the rank's recorder writes. The file is a pickle, for `torchfrtrace` alone."""
    return log_directory / f"{FLIGHT_RECORDER_STEM}{rank}"


def _ask(log_directory: Path, rank: int) -> bool:
    path = log_directory / f"{FLIGHT_RECORDER_STEM}{rank}.pipe"
    try:
        # Without a reader this fails at once, where a plain open would wait for one.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode) and os.write(descriptor, b"1") == 1
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _mark(path: Path) -> Mark:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)
