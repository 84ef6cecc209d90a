"""The program of a Slurm job: `python -m launcher.submitted REQUEST.json`. It launches, and queues the job again where
the run shall go on in a later one. Supervises nothing itself.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from launcher.console import Console
from launcher.edge import run_at_edge
from launcher.execute import execute
from launcher.launch import LaunchRequest, check_launch
from launcher.records import write_json
from launcher.stored_request import request_from_json, request_to_json
from llama_dist.config import ClusterConfig
from llama_dist.exit_codes import ExitCode

_REQUEUE_SECONDS = 60.0
_MARGIN_SECONDS = 60.0  # Slurm sends its signal up to a minute early (sbatch: --signal)


def _main() -> int:
    path = Path(sys.argv[1])
    request = request_from_json(json.loads(path.read_text(encoding="utf-8")))
    launch = check_launch(request, os.environ)
    console = Console()
    _begin_once(path, request)
    code = execute(launch, console)
    if wants_another_job(code, launch.cluster, os.environ, time.time()):
        job = os.environ["SLURM_JOB_ID"]
        console.say(f"queued again as Slurm job {job}: the run goes on from its newest checkpoint")
        program = shutil.which("scontrol") or "/usr/bin/scontrol"
        subprocess.run([program, "requeue", job], check=False, timeout=_REQUEUE_SECONDS)
    return code


def wants_another_job(code: int, cluster: ClusterConfig, environment: Mapping[str, str], now: float) -> bool:
    """Whether the run was only stopped by the job's limit, or lost too many of its nodes."""
    if not cluster.slurm.requeue or not environment.get("SLURM_JOB_ID", "").isdigit():
        return False
    if code == ExitCode.RETRY:
        return True
    end = environment.get("SLURM_JOB_END_TIME", "")
    is_near_limit = end.isdigit() and int(end) - now < cluster.slurm.signal_before_limit_seconds + _MARGIN_SECONDS
    return code == ExitCode.STOPPED and is_near_limit


def _begin_once(path: Path, request: LaunchRequest) -> None:
    """A run that was told to start afresh must not do so again when its job is queued again."""
    if request.fresh:
        write_json(path, request_to_json(request) | {"fresh": False})


if __name__ == "__main__":
    run_at_edge(_main)
