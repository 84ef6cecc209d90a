"""The note that a rank leaves when it ends by itself: torchrun hides exit codes, the supervisor reads this instead."""

import json
import socket
import time
from pathlib import Path


def write_exit_record(path: Path, *, rank: int, exit_code: int, reason: str, step: int, error: str = "") -> None:
    """Write the note whole or not at all; absent, the supervisor takes the rank for killed.

    Raises OSError, also where the directory of the attempt is gone.
    `error` is the name of the class of the error that ended it, from which the launcher tells the cause.
    """
    values = {
        "rank": rank,
        "exit_code": exit_code,
        "reason": reason,
        "step": step,
        "error": error,
        "host": socket.gethostname(),
        "time": time.time(),
    }
    path.parent.mkdir(exist_ok=True, mode=0o700)  # no parents: a run directory that was deleted stays so
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(values), encoding="utf-8")
    beside.replace(path)
