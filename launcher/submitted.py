"""The program of a Slurm job: `python -m launcher.submitted REQUEST.json`. It launches, and queues the job again where
the run shall go on in a later one. Supervises nothing itself.
"""

import json
import os
import sys
import time
from pathlib import Path

from launcher.attempt_files import attempt_numbers
from launcher.console import Console
from launcher.edge import run_at_edge
from launcher.execute import execute
from launcher.launch import LaunchRequest, check_launch
from launcher.records import read_json, write_json
from launcher.slurm_job import SlurmJob, ask_job, requeue_job
from launcher.stored_request import request_from_json, request_to_json
from llama_dist.checkpoint.manifest import list_steps
from llama_dist.config import RunDirectory
from llama_dist.config.cluster_slurm import SlurmConfig
from llama_dist.exit_codes import ExitCode

_MARGIN_SECONDS = 60.0  # Slurm sends its signal up to a minute early (sbatch: --signal)


def _main() -> int:
    path = Path(sys.argv[1])
    request = request_from_json(json.loads(path.read_text(encoding="utf-8")))
    launch = check_launch(request, os.environ)
    console = Console()
    _begin_once(path, request)
    newest_before = newest_step(launch.run)
    code = execute(launch, console)
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job.isdigit() or has_given_up(launch.run):
        return code
    has_progressed = newest_step(launch.run) > newest_before
    if wants_another_job(code, launch.cluster.slurm, ask_job(job), has_progressed, time.time()):
        console.say(f"queued again as Slurm job {job}: the run goes on from its newest checkpoint")
        requeue_job(job)
    return code


def wants_another_job(code: int, slurm: SlurmConfig, job: SlurmJob, has_progressed: bool, now: float) -> bool:
    """Whether the run was stopped because its job ends, or lost too many of its nodes.

    Slurm itself queues a job again only if that still runs when its grace time is over: one that has saved and ended
    in time has to ask. A job that is cancelled stays so, and one whose time was too short for a checkpoint would be
    queued for ever.
    """
    if not slurm.requeue or not job.is_running:
        return False
    if code == ExitCode.RETRY:  # a crash loop has been told apart before
        return True
    notice_seconds = slurm.signal_before_limit_seconds + _MARGIN_SECONDS
    is_near_end = job.end_time is not None and job.end_time - now < notice_seconds
    return code == ExitCode.STOPPED and (job.is_preempted or (is_near_end and has_progressed))


def newest_step(run: RunDirectory) -> int:
    """Step of the newest checkpoint; -1 where there is none."""
    return max(list_steps(run.checkpoints), default=-1)


def has_given_up(run: RunDirectory) -> bool:
    """Whether the newest attempt was the last: too few nodes, by contrast, end a run between two attempts."""
    newest = max(attempt_numbers(run), default=0)
    return (read_json(run.attempt_end(newest)) or {}).get("next") == "failed"


def _begin_once(path: Path, request: LaunchRequest) -> None:
    """A run that was told to start afresh must not do so again when its job is queued again."""
    if request.fresh:
        write_json(path, request_to_json(request) | {"fresh": False})


if __name__ == "__main__":
    run_at_edge(_main)
