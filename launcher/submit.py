"""A launch from a login node of Slurm: writes the request and the job's script, and submits it. Waits for nothing."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster.environment import as_mapping
from launcher.console import Console
from launcher.errors import LiveRunError, SubmissionError
from launcher.execute import create_run_directory
from launcher.launch import Launch
from launcher.lease import who_holds
from launcher.plan import node_environment, python_of
from launcher.queued_job import note_job, refuse_second_job
from launcher.records import write_text
from launcher.run_lock import live_owner
from launcher.sbatch_script import Submission, render_sbatch_script
from launcher.stored_request import keep_request
from llama_dist.config import RunDirectory

_SUBMIT_SECONDS = 60.0
_JOB = re.compile(r"^(\d+)")


def submission_of(launch: Launch) -> Submission:
    """What would be submitted."""
    machines = launch.expected_machines()
    start = node_environment(machines, launch.machine, 1, launch.run.path, launch.caller_environment)
    # Not CUDA_VISIBLE_DEVICES: which GPUs the job has is Slurm's to say, and differs from node to node.
    names = ("PATH", "HOME", "USER", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in as_mapping(start).items() if name in names}
    if conf := launch.caller_environment.get("SLURM_CONF"):
        environment["SLURM_CONF"] = conf
    return Submission(
        run_name=launch.config.name,
        run_directory=launch.run.path,
        request_file=launch.run.path / "submission.json",
        working_directory=Path.cwd(),
        python=python_of(launch.cluster),
        environment=environment,
    )


def submit(launch: Launch, console: Console) -> int:
    """Submit the launch as a job; answers 0. Raises ReportedError for what would be refused, here or by Slurm."""
    program = shutil.which("sbatch")
    if program is None:
        raise SubmissionError("sbatch: not found on this machine: launch on a login node of the cluster")
    if owner := live_owner(launch.run):
        raise LiveRunError(who_holds(launch.run, owner))
    submission = submission_of(launch)
    script = render_sbatch_script(launch.cluster, submission)
    create_run_directory(launch.run)
    with _one_at_a_time(launch.run):
        refuse_second_job(launch.run, console)
        number = _submit(program, launch, submission, script)
    console.say(
        f"run `{launch.run.name}`: submitted as Slurm job {number}; output in {launch.run.path}/slurm-{number}.out"
    )
    console.say(f"see it with `llama-dist status {launch.run.path}`")
    return 0


@contextlib.contextmanager
def _one_at_a_time(run: RunDirectory) -> Iterator[None]:
    """Keep a second launch from submitting between this one's question to Slurm and its note of the job.

    Not the lock of the live run, which the job may want at once. A file system without locks keeps nobody out.
    """
    descriptor = os.open(run.path / "submission.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LiveRunError(f"run `{run.name}` is being submitted by another launch just now") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _submit(program: str, launch: Launch, submission: Submission, script: str) -> str:
    """Write what the job needs, submit it and note its number. Raises ReportedError."""
    launch.find_changes()
    keep_request(launch, submission.request_file)
    write_text(launch.run.path / "job.sbatch", script)
    answer = _sbatch(program, launch)
    job = _JOB.match(answer.stdout)
    if answer.returncode != 0 or job is None:
        raise SubmissionError(f"sbatch refused the job (exit status {answer.returncode}): {answer.stderr.strip()}")
    note_job(launch.run, job[1])
    return job[1]


def _sbatch(program: str, launch: Launch) -> subprocess.CompletedProcess[str]:
    """Run it on the job's script. Raises SubmissionError where it gives no answer."""
    try:
        return subprocess.run(
            [program, "--parsable", str(launch.run.path / "job.sbatch")],
            check=False,
            capture_output=True,
            text=True,
            timeout=_SUBMIT_SECONDS,
            env=os.environ,
        )
    except subprocess.TimeoutExpired:
        raise SubmissionError(
            f"sbatch gave no answer in {_SUBMIT_SECONDS:.0f} s: whether run `{launch.run.name}` was submitted is not "
            f"known: look with `squeue --me --name={launch.run.name}`, and launch again if no job is there"
        ) from None
