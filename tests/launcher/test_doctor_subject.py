"""How many nodes the needs of a run are computed for, and how many of them the doctor asks."""

import os
import socket

import pytest
import yaml
from fake_run import run_values

from launcher.console import Console
from launcher.doctor.result import DoctorReport
from launcher.doctor.subject import disk_need, memory_need
from launcher.doctor.visit import DoctorRequest, quick_checks, read_subject
from launcher.launch import LaunchRequest, check_launch
from launcher.preflight import check_before_launch

STARTED = ("cluster.backend=started",)
ZERO_3 = ("parallel.zero_stage=3", "batch.global_batch_sequences=64")
OWN_DISKS = ("checkpoint.shared=false", "checkpoint.directory=/tmp")
STEP_OF_8 = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-8]",
    "SLURM_STEP_NUM_NODES": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture
def run_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run_values(tmp_path)))
    return file


@pytest.fixture
def started_on_8(monkeypatch):
    for name, value in STEP_OF_8.items():
        monkeypatch.setenv(name, value)


def read(run_file, *overrides):
    return read_subject(DoctorRequest(run_file, overrides=overrides))


def test_a_started_job_is_asked_on_its_first_node_and_reckoned_for_all(run_file, started_on_8):
    subject, alone = read(run_file, *STARTED, *ZERO_3), read(run_file, *ZERO_3)
    assert (subject.hosts, subject.num_nodes) == ((socket.gethostname(),), 8)
    assert memory_need(subject, 8).state_bytes == pytest.approx(memory_need(alone, 8).state_bytes / 8, rel=0.01)


def test_each_node_of_a_started_job_keeps_its_share_of_a_checkpoint(run_file, started_on_8):
    subject, alone = read(run_file, *STARTED, *OWN_DISKS), read(run_file, *OWN_DISKS)
    assert disk_need(subject).checkpoint_bytes == pytest.approx(disk_need(alone).checkpoint_bytes / 8, abs=1)


def test_the_quick_checks_of_a_launch_know_all_nodes_that_were_started(fake_run, monkeypatch):
    seen = []

    def look(subject):
        seen.append(subject)
        return DoctorReport(subject.hosts, (), 0.0)

    monkeypatch.setattr("launcher.preflight.quick_checks", look)
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": ""} | STEP_OF_8
    overrides = (*STARTED, *ZERO_3, "cluster.num_processes_per_node=8")
    launch = check_launch(LaunchRequest(fake_run.run_file, None, overrides), environment)
    check_before_launch(launch, Console())
    assert (seen[0].hosts, seen[0].num_nodes) == ((launch.machine.host,), 8)


def test_spare_nodes_and_those_beyond_the_most_hold_no_part_of_the_run(run_file):
    hosts = "cluster.hosts=[a, b, c, d, e]"
    assert read(run_file, "cluster.backend=ssh", hosts, "cluster.spare_nodes=1").num_nodes == 4
    assert read(run_file, "cluster.backend=ssh", hosts, "cluster.nodes={min: 1, max: 3}").num_nodes == 3


def test_where_nobody_says_how_many_nodes_there_are_nothing_is_refused_for_it(run_file, monkeypatch):
    monkeypatch.setattr("launcher.doctor.subject.read_started", lambda _environment: None)
    subject = read(run_file, *STARTED, *OWN_DISKS)
    assert subject.num_nodes is None
    results = {one.check: one for one in quick_checks(subject).results}
    for check in ("memory", "disk"):
        assert results[check].verdict == "skipped" and "how many nodes" in results[check].text
