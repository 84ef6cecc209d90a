"""A real Slurm on three hosts: it runs, requeues, and sees a host die and return."""

import os
import subprocess

import pytest
from cluster_in_a_box import lab_for_tests
from lab_observation import left_of, status_of, wait_until

from launcher.lab.faults import kill, mend
from launcher.lab.slurm_hosts import slurm_states

pytestmark = pytest.mark.cluster

_JOB = '#!/bin/sh\necho "start ${SLURM_RESTART_COUNT:-0} on $(hostname)"\nsleep 600\n'


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("s", with_slurm=True) as lab:
        yield lab
    assert left_of(lab.name) == []


def slurm(lab, *command: str) -> str:
    done = subprocess.run(
        command, check=False, env=os.environ | lab.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_srun_reaches_every_node_from_the_login_machine(lab):
    assert sorted(slurm(lab, "srun", "-N3", "hostname").split()) == ["node1", "node2", "node3"]


def test_a_step_may_have_more_tasks_than_the_machine_has_cores(lab):
    assert len(slurm(lab, "srun", "-N3", "--ntasks-per-node=4", "hostname").split()) == 12


def test_a_requeued_job_starts_again(lab, tmp_path):
    script, output = tmp_path / "job.sh", tmp_path / "job.out"
    script.write_text(_JOB)
    options = ["--parsable", "--requeue", "-wnode1", f"--output={output}", "--open-mode=append"]
    job = slurm(lab, "sbatch", *options, str(script)).strip()
    wait_until(lambda: output.exists() and output.read_text() == "start 0 on node1\n", 30, "the job's first start")
    slurm(lab, "scontrol", "requeue", job)
    wait_until(lambda: output.read_text().endswith("start 1 on node1\n"), 40, "the job's second start")
    slurm(lab, "scancel", job)
    wait_until(lambda: slurm(lab, "squeue", "--noheader") == "", 30, "the end of the job")


def test_a_killed_node_is_down_and_idle_again_once_mended(lab):
    kill(lab, "node2")
    assert status_of(lab)["node2"]["daemons"] == {"sshd": None, "slurmd": None}
    wait_until(lambda: slurm_states(lab)["node2"].startswith("down"), 60, "node2 being DOWN")
    assert slurm_states(lab)["node1"] == "idle"
    mend(lab, "node2")
    assert slurm_states(lab)["node2"] == "idle"
    assert slurm(lab, "srun", "-N1", "-wnode2", "hostname") == "node2\n"


def test_jobs_run_again_once_a_dead_controller_is_mended(lab):
    kill(lab, "control")
    assert status_of(lab)["control"]["state"] == "killed"
    mend(lab, "control")
    assert sorted(slurm(lab, "srun", "-N3", "hostname").split()) == ["node1", "node2", "node3"]
