"""SIGKILL at any instant, over and over: the run ends as the unbroken one, without a hand but for launching again."""

import json
import os
import subprocess
import sys

import pytest
from kill_storm import AIMS, Kill, Storm, draw_kills
from run_evidence import losses, samples_of_each_step

from llama_dist.checkpoint.manifest import list_steps, step_directory
from llama_dist.config import RunDirectory

NUM_KILLS = int(os.environ.get("STORM_KILLS", "100"))
SEED = int(os.environ.get("STORM_SEED", "4"))
STEPS_PER_KILL = 12  # more than an attempt does before it is killed, nearly always: the run must outlast the storm
INTERVAL_STEPS = 3
BATCH = 8

# Kills can come faster than saves, which is what ends a run that crashes on and on: not meant here.
SUPERVISION = {
    "process_group_timeout_seconds": 60.0,
    "first_backoff_seconds": 0.05,
    "max_backoff_seconds": 0.1,
    "max_attempts_without_progress": 1000,
}
SECTIONS = {
    "checkpoint": {"interval_steps": INTERVAL_STEPS, "keep_last": 2},
    "metrics": {"mlflow": False, "audit_samples": True},
    "supervision": SUPERVISION,
}


def hold_out(write_run, tmp_path, kills, num_steps):
    """Let the storm pass over a run, and compare what is left with the unbroken run."""
    train = {"num_steps": num_steps, "precision": "fp32"}
    unbroken, broken = (RunDirectory(tmp_path / "runs" / name) for name in ("unbroken", "broken"))
    whole = subprocess.Popen(
        [
            *(sys.executable, "-m", "launcher", "launch", str(write_run("unbroken", train=train, **SECTIONS))),
            *("--set", "cluster.num_processes_per_node=2"),
        ],
        stdout=subprocess.DEVNULL,
    )
    storm = Storm(broken, write_run("broken", train=train, **SECTIONS))
    try:
        code = storm.unleash(kills)
        assert whole.wait(240) == 0
        print(f"{storm.killed.total()} kills: {dict(storm.killed)}; missed {dict(storm.missed)}")
        print(f"{storm.attempt} attempts, {storm.num_launches} launches, seed {SEED}")
        assert code == 0, storm.output()[-3000:]
        assert storm.num_launches == 1 + sum(kill.victim == "supervisor" for kill in kills)
        assert not storm.processes_left()
    finally:
        storm.close()
        if whole.poll() is None:
            whole.terminate()
            whole.wait(60)
    check_equal(broken, unbroken, num_steps)
    check_tidy(storm)
    return storm


def check_equal(broken, unbroken, num_steps):
    assert losses(broken) == losses(unbroken)
    assert sorted(losses(broken)) == list(range(1, num_steps + 1))
    samples = samples_of_each_step(broken)
    assert samples == samples_of_each_step(unbroken)
    assert len(set().union(*samples.values())) == sum(len(ids) for ids in samples.values()) == num_steps * BATCH
    ends = [str(step_directory(run.checkpoints, num_steps)) for run in (broken, unbroken)]
    compare = [sys.executable, "-m", "llama_dist.checkpoint.compare", *ends]
    compared = subprocess.run(compare, check=False, capture_output=True, text=True, timeout=120)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    states = json.loads(compared.stdout)["states"]
    assert [one["num_tensors"] > 0 for one in states.values()] == [True, True, True]


def check_tidy(storm):
    """What a killed save left is removed by the next one: nothing piles up."""
    checkpoints = storm.run.checkpoints
    assert storm.most_stagings <= 1
    assert not [path.name for path in checkpoints.iterdir() if path.name.startswith((".staging_", ".replaced_"))]
    assert len(list(checkpoints.glob("step_*"))) == len(list_steps(checkpoints)) == SECTIONS["checkpoint"]["keep_last"]


def test_a_run_killed_inside_its_saves_is_the_unbroken_run(write_run, tmp_path):
    """One kill at each end of a save, in between, and of each process."""
    kills = [
        Kill("rank 1", "rank file", 0, 0.0),
        Kill("agent", "unfinished manifest", 0, 0.0),
        Kill("supervisor", "renamed", 0, 0.0),
        Kill("rank 0", "manifest", 0, 0.0),
    ]
    storm = hold_out(write_run, tmp_path, kills, num_steps=40)
    assert storm.killed.total() == len(kills), "each kill met its process"


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_a_run_killed_at_a_hundred_random_instants_is_the_unbroken_run(write_run, tmp_path):
    kills = draw_kills(SEED, NUM_KILLS)
    storm = hold_out(write_run, tmp_path, kills, num_steps=STEPS_PER_KILL * NUM_KILLS + 40)
    assert storm.killed.total() >= 0.95 * NUM_KILLS, "nearly each kill met its process"
    if NUM_KILLS >= 100:
        assert {aim for aim, _ in storm.killed} == {*AIMS, "training", "starting"}
