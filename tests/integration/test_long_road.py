"""The long ones, run by `make test-long`: a run that is killed again and again, and the benchmarks' tables."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from test_killed_run import finish, kill_a_rank_at, launch, losses, samples_of_each_step

from llama_dist.config import RunDirectory

ROOT = Path(__file__).parents[2]
NUM_KILLS = 6
NUM_STEPS = 90


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_killed_six_times_is_bit_for_bit_the_unbroken_run(write_run, tmp_path):
    train = {"num_steps": NUM_STEPS, "precision": "fp32"}
    metrics = {"audit_samples": True, "mlflow": False}
    finish(launch(write_run("unbroken", train=train, metrics=metrics)))
    process = launch(write_run("killed", train=train, metrics=metrics))
    run = RunDirectory(tmp_path / "runs" / "killed")
    draw = random.Random(7)
    for kill in range(NUM_KILLS):
        # Each kill lies past the checkpoint that follows the one before: the supervisor sees progress.
        kill_a_rank_at(run, 10 + 12 * kill + draw.randrange(4), draw.randrange(2), process)
    finish(process)
    unbroken = RunDirectory(tmp_path / "runs" / "unbroken")
    assert losses(run) == losses(unbroken)
    assert samples_of_each_step(run) == samples_of_each_step(unbroken)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("program", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_prints_its_table(program):
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n|") >= 3
