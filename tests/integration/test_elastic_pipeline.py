"""A real pipeline over three hosts that loses one and gets it back: the batches and losses of the unbroken run."""

import subprocess
import sys
import time

import pytest
import yaml
from cluster_in_a_box import lab_for_tests
from run_evidence import losses, samples_of_each_step

from launcher.lab.faults import cut, mend
from launcher.records import read_heartbeats, read_json
from llama_dist.config import RunDirectory

# fp32 sums over another number of stages and micro-batches round differently, and AdamW carries that along.
LOSS_TOLERANCE = 1e-4
NUM_STEPS = 300  # more than are done on two hosts until the third is back
SECTIONS = {
    "model": {
        "vocabulary_size": 512,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 2,
        "feed_forward_size": 64,
        "max_sequence_length_tokens": 64,
    },
    "batch": {"global_batch_sequences": 12, "micro_batch_sequences": 2},
    "train": {"num_steps": NUM_STEPS, "precision": "fp32"},
    "checkpoint": {"interval_steps": 5},
    "metrics": {"mlflow": False, "audit_samples": True},
    "supervision": {"process_group_timeout_seconds": 60.0, "first_backoff_seconds": 0.1},
}


@pytest.fixture
def lab():
    with lab_for_tests("e") as lab:
        yield lab


def over_ssh(lab):
    hosts = ", ".join(node.name for node in lab.nodes)
    return (
        "cluster.backend=ssh",
        f"cluster.hosts=[{hosts}]",
        f"cluster.ssh_config={lab.ssh_config}",
        "cluster.num_processes_per_node=1",
    )


def launch(run_file, *overrides):
    sets = [part for override in overrides for part in ("--set", override)]
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", "launch", str(run_file), *sets], stdout=subprocess.PIPE, text=True
    )


def wait_for_step(run, attempt, step, process, seconds=240):
    """Wait until each rank of `attempt` has come to `step`."""
    deadline = time.monotonic() + seconds
    while True:
        beats = [beat for beat in read_heartbeats(run.heartbeats).values() if beat.attempt == attempt]
        if beats and min(beat.step for beat in beats) >= step:
            return
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline, f"attempt {attempt} never came to step {step}"
        time.sleep(0.1)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_pipeline_over_three_hosts_goes_on_over_two_and_over_three_again(lab, write_run, tmp_path):
    run = RunDirectory(tmp_path / "runs" / "elastic")
    slow_enough = ("parallel.pipeline_stages=3", "cluster.nodes={min: 2, max: 3}")
    elastic = launch(write_run("elastic", **SECTIONS), *over_ssh(lab), *slow_enough)
    try:
        wait_for_step(run, 1, 12, elastic)
        cut(lab, "node2")
        try:
            wait_for_step(run, 2, 20, elastic)
        finally:
            mend(lab, "node2")
        output, _ = elastic.communicate(timeout=300)
    finally:
        if elastic.poll() is None:
            elastic.kill()
            elastic.communicate()
    assert elastic.returncode == 0, output[-3000:]
    stages = [
        yaml.safe_load(run.attempt_config(number).read_text())["parallel"]["pipeline_stages"] for number in (1, 2, 3)
    ]
    assert stages == [3, 2, 3], output[-3000:]
    assert [len(read_json(run.attempt(number) / "plan.json")["machines"]) for number in (1, 2, 3)] == [3, 2, 3]
    reasons = [read_json(run.attempt(number) / "exit.json")["reason"] for number in (1, 2)]
    assert "on node2 was lost" in reasons[0], "and no hang of the ranks that waited for it"
    assert reasons[1] == "nodes have come back"
    check_against_unbroken(run, write_run("unbroken", **SECTIONS), tmp_path)


def check_against_unbroken(run, run_file, tmp_path):
    unbroken = RunDirectory(tmp_path / "runs" / "unbroken")
    process = launch(run_file)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]
    assert samples_of_each_step(run) == samples_of_each_step(unbroken)
    assert sorted(losses(run)) == list(range(1, NUM_STEPS + 1))
    expected = losses(unbroken)
    assert max(abs(loss - expected[step]) for step, loss in losses(run).items()) < LOSS_TOLERANCE
