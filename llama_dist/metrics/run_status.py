"""Whether a run goes on, and how it ended: read from what its supervisor wrote and whether it still lives."""

import json
import socket
import time
from typing import Any

import psutil

from llama_dist.config import RunDirectory
from llama_dist.metrics.spool import spool_path
from llama_dist.metrics.tracker import RunStatus

_ENDED: dict[Any, RunStatus] = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

# psutil reckons a start time from the clock of the boot, which two processes may read a little apart.
_START_TIME_TOLERANCE_SECONDS = 2.0

# A trainer started without a supervisor has no state file: it lives as long as its spool grows.
_SILENCE_SECONDS = 600.0


def read_run_status(directory: RunDirectory, watched_since: float) -> RunStatus:
    """Return RUNNING, or how the run ended. `watched_since` is when the caller began, in seconds since 1970."""
    try:
        supervisor = json.loads(directory.supervisor.read_text(encoding="utf-8"))
        state = supervisor["state"]
    except (OSError, ValueError, TypeError, KeyError):
        return "RUNNING" if _last_sign_of_life(directory, watched_since) > time.time() - _SILENCE_SECONDS else "FAILED"
    if state in _ENDED:
        return _ENDED[state]
    return "RUNNING" if _may_live(supervisor) else "FAILED"


def _may_live(supervisor: dict[str, Any]) -> bool:
    """Return False only where this host knows that the supervisor's process is gone."""
    if supervisor.get("host") != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(supervisor["pid"]))
        is_same = abs(process.create_time() - float(supervisor["create_time"])) < _START_TIME_TOLERANCE_SECONDS
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, KeyError, TypeError, ValueError):
        return True


def _last_sign_of_life(directory: RunDirectory, watched_since: float) -> float:
    try:
        return max(watched_since, spool_path(directory.metrics).stat().st_mtime)
    except OSError:
        return watched_since
