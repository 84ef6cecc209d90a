"""The real trainer over a real Slurm: what was preempted and queued again is bit for bit the run that never was."""

import json
import os
import re
import subprocess
import time

import pytest
from cluster_in_a_box import lab_for_tests
from run_evidence import losses, samples_of_each_step

from launcher.records import read_heartbeats
from launcher.status import read_status
from llama_dist.config import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = 900.0  # on a busy machine, where a step may take as long as a run on an idle one
METRICS = {"audit_samples": True, "mlflow": False}


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("i", with_slurm=True) as lab:
        slurm(lab, "scontrol", "update", "PartitionName=batch", "GraceTime=25")
        yield lab
        slurm(lab, "scancel", "--user=root")


def slurm(lab, *command: str) -> str:
    done = subprocess.run(
        command, check=False, env=os.environ | lab.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def facts_of(lab, job: str) -> dict[str, str]:
    return dict(re.findall(r"(\S+?)=(\S*)", slurm(lab, "scontrol", "show", "job", job, "--oneliner")))


def submit(lab, llama_dist, run_file, num_nodes: int, num_processes: int) -> str:
    values = ("backend=slurm", f"slurm.num_nodes={num_nodes}", "node_timeout_seconds=60.0")
    values += (f"num_processes_per_node={num_processes}",)
    settings = [word for value in values for word in ("--set", f"cluster.{value}")]
    launched = llama_dist("launch", run_file, *settings, env=os.environ | lab.environment)
    assert launched.returncode == 0, launched.stderr
    return re.search(r"submitted as Slurm job (\d+)", launched.stdout)[1]


def wait_for_step(run: RunDirectory, attempt: int, step: int, describe) -> None:
    """Wait until the attempt has done some steps."""
    deadline = time.monotonic() + LONG
    while True:
        beats = [beat for beat in read_heartbeats(run.heartbeats).values() if beat.attempt == attempt]
        if any(beat.step >= step for beat in beats):
            return
        assert time.monotonic() < deadline, describe()
        time.sleep(0.02)


def end_of(lab, job: str, describe) -> str:
    deadline = time.monotonic() + LONG
    while facts_of(lab, job)["JobState"] in ("PENDING", "RUNNING", "COMPLETING"):
        assert time.monotonic() < deadline, describe()
        time.sleep(0.2)
    return facts_of(lab, job)["ExitCode"]


def assert_same_runs(broken: RunDirectory, unbroken: RunDirectory, num_steps: int) -> None:
    assert losses(broken) == losses(unbroken)
    assert sorted(losses(broken)) == list(range(1, num_steps + 1))
    assert samples_of_each_step(broken) == samples_of_each_step(unbroken)


def write_pipeline(write_run, name: str, num_steps: int):
    """12 sequences a batch, which two and three replicas share evenly."""
    train = {"num_steps": num_steps, "precision": "fp32"}
    supervision = {"hang_timeout_min_seconds": None}
    batch = {"global_batch_sequences": 12, "micro_batch_sequences": 2}
    sections = {"batch": batch, "train": train, "metrics": METRICS, "supervision": supervision}
    return write_run(name, parallel={"pipeline_stages": 2}, **sections)


def unbroken_twin(llama_dist, write_run, tmp_path, num_processes: int, num_steps: int) -> RunDirectory:
    """The same run on the same topology, on this machine alone."""
    run_file = write_pipeline(write_run, "unbroken", num_steps)
    settings = ("--set", f"cluster.num_processes_per_node={num_processes}")
    done = llama_dist("launch", run_file, *settings, timeout_seconds=LONG)
    assert done.returncode == 0, done.stderr
    return RunDirectory(tmp_path / "runs" / "unbroken")


def test_a_pipeline_over_two_hosts_that_is_queued_again_is_the_unbroken_run(lab, llama_dist, write_run, tmp_path):
    run = RunDirectory(tmp_path / "runs" / "requeued")
    job = submit(lab, llama_dist, write_pipeline(write_run, "requeued", 60), 2, 1)

    def describe():
        return (run.path / f"slurm-{job}.out").read_text()

    wait_for_step(run, 1, 3, describe)
    slurm(lab, "scontrol", "requeue", job)
    assert end_of(lab, job, describe) == "0:0", describe()
    assert read_status(run).num_earlier_attempts >= 1
    machines = json.loads((run.attempt(1) / "plan.json").read_text())["machines"]
    assert [one["host"] for one in machines] == ["node1", "node2"]
    assert_same_runs(run, unbroken_twin(llama_dist, write_run, tmp_path, 2, 60), 60)


def test_a_pipeline_of_replicas_that_is_preempted_queued_again_and_signalled_is_the_unbroken_run(
    lab, llama_dist, write_run, tmp_path
):
    """Pipeline 2 x DP 3 on three hosts, from the login machine."""
    run = RunDirectory(tmp_path / "runs" / "preempted")
    run_file = write_pipeline(write_run, "preempted", 300)
    job = submit(lab, llama_dist, run_file, 3, 2)

    def describe():
        return (run.path / f"slurm-{job}.out").read_text()

    wait_for_step(run, 1, 8, describe)
    urgent = ("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    slurm(lab, "sbatch", *urgent)
    wait_for_step(run, 2, 1, describe)
    slurm(lab, "scontrol", "requeue", job)
    wait_for_step(run, 3, 1, describe)
    assert "queued again as Slurm job" in describe()
    slurm(lab, "scancel", "--signal=TERM", "--batch", job)
    assert end_of(lab, job, describe) == "143:0", describe()
    job = submit(lab, llama_dist, run_file, 3, 2)
    assert end_of(lab, job, describe) == "0:0", describe()
    machines = json.loads((run.attempt(4) / "plan.json").read_text())["machines"]
    assert [one["host"] for one in machines] == ["node1", "node2", "node3"]
    assert_same_runs(run, unbroken_twin(llama_dist, write_run, tmp_path, 6, 300), 300)
