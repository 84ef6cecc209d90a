"""A run whose rank is killed by SIGKILL is the unbroken run: losses, samples and MLflow's record. All of it real."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from mlflow.tracking import MlflowClient
from run_evidence import losses, samples_of_each_step

from launcher.status import read_status
from llama_dist.config import RunDirectory

NUM_STEPS = 60
TWO_RANKS = ("--set", "cluster.num_processes_per_node=2")
METRICS = {"audit_samples": True}


def launch(run_file, *settings):
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", "launch", str(run_file), *TWO_RANKS, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_a_rank_at(run, step, rank, process):
    """Wait until the run is past `step`, then SIGKILL one rank by the pid of its heartbeat."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        ranks = {status.rank: status for status in read_status(run).ranks}
        if rank in ranks and ranks[rank].alive and ranks[rank].step >= step:
            os.kill(ranks[rank].pid, signal.SIGKILL)
            return ranks[rank].step
        time.sleep(0.02)
    raise AssertionError(f"the run never reached step {step}")


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def chosen():
    """A random step and rank, printed so that a failure can be repeated."""
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10_000))
    print(f"KILL_SEED={seed}")
    draw = random.Random(seed)
    return draw.randrange(8, NUM_STEPS - 10), draw.randrange(2)


def test_a_killed_run_is_bit_for_bit_the_unbroken_run(write_run, tmp_path, chosen):
    unbroken_run = RunDirectory(tmp_path / "runs" / "unbroken")
    killed_run = RunDirectory(tmp_path / "runs" / "killed")
    finish(launch(write_run("unbroken", metrics=METRICS | {"mlflow": False})))
    process = launch(write_run("killed", metrics=METRICS))
    step, rank = chosen
    kill_a_rank_at(killed_run, step, rank, process)
    output = finish(process)
    assert f"rank {rank} was killed by SIGKILL" in output

    assert losses(killed_run) == losses(unbroken_run)
    assert sorted(losses(killed_run)) == list(range(1, NUM_STEPS + 1))

    samples = samples_of_each_step(killed_run)
    assert samples == samples_of_each_step(unbroken_run)
    assert sum(len(ids) for ids in samples.values()) == NUM_STEPS * 8, "each step has its 8 samples"
    assert len(set().union(*samples.values())) == NUM_STEPS * 8, "no sample of an epoch comes twice"

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "llama-dist"]
    (mlflow_run,) = client.search_runs([experiment.experiment_id])
    assert mlflow_run.info.status == "FINISHED"
    logged = client.get_metric_history(mlflow_run.info.run_id, "loss")
    assert [metric.step for metric in sorted(logged, key=lambda metric: metric.step)] == list(range(1, NUM_STEPS + 1))
    assert {metric.step: metric.value for metric in logged} == losses(unbroken_run)


def test_a_stopped_run_saves_and_continues_as_a_pipeline(write_run, tmp_path, llama_dist):
    run = RunDirectory(tmp_path / "runs" / "stopped")
    run_file = write_run("stopped", train={"num_steps": 400, "precision": "fp32"})
    process = launch(run_file)
    deadline = time.monotonic() + 120
    while not any(status.step >= 5 for status in read_status(run).ranks):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    stopped = llama_dist("stop", run.path)
    assert stopped.returncode == 0, stopped.stderr
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    saved = read_status(run).newest_checkpoint_step
    assert saved is not None and 5 <= saved < 400

    finish(launch(run_file, "--set", "parallel.pipeline_stages=2", "--set", f"train.num_steps={saved + 5}"))
    assert sorted(losses(run)) == list(range(1, saved + 6))
