"""Exec probe of a node: whether its agent has lately given a sign of life. Standard library alone: it starts in 50 ms.

    python -m launcher.node_probe RUN_DIRECTORY MAX_AGE_SECONDS

The sign is `nodes/HOST.json` in the run directory, with a field `time` in seconds since 1970 by the clock of the node.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Return 0 for a live node, 1 with a reason on stderr for any other."""
    directory, max_age_seconds = arguments
    fault = find_fault(Path(directory) / "nodes", host_of(environment), float(max_age_seconds), time.time())
    if fault:
        sys.stderr.write(f"{fault}\n")
    return 1 if fault else 0


def host_of(environment: Mapping[str, str]) -> str:
    """Return the name by which the other nodes know this one: a pod's, or this machine's.

    The same as `cluster.scheduler.read_started` finds, without its checks, which would cost the probe 0.3 s.
    """
    names = [environment.get(name) for name in ("LLAMA_DIST_JOB_NAME", "JOB_COMPLETION_INDEX", "LLAMA_DIST_SERVICE")]
    return f"{names[0]}-{names[1]}.{names[2]}" if all(names) else socket.gethostname()


def find_fault(directory: Path, host: str, max_age_seconds: float, now: float) -> str | None:
    """Say why the node `host` is not alive, or None."""
    if not host or Path(host).name != host:
        return f"{host!a} is no host name"
    path = directory / f"{host}.json"
    try:
        values: Any = json.loads(path.read_bytes())
    except OSError as error:
        return f"{path}: {error.strerror}: no agent has begun here"
    except ValueError:
        return f"{path}: not JSON"
    written = values.get("time") if isinstance(values, dict) else None
    if isinstance(written, bool) or not isinstance(written, int | float):
        return f"{path}: has no `time`"
    age = now - written
    if age <= max_age_seconds:  # false for a time that is no number
        return None
    return f"{path}: the last sign of life is {age:.0f} s old, at most {max_age_seconds:g} s are allowed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
