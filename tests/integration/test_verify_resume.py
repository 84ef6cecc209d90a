"""`verify-resume` on a user's config: real launches, a real SIGKILL, a second topology; the run stays as it is."""

import json

import pytest

from llama_dist.config import RunDirectory

TRAIN = {"num_steps": 60, "precision": "fp32"}
TWO_RANKS = ("--set", "cluster.num_processes_per_node=2")


@pytest.mark.timeout(300)
def test_a_killed_and_a_moved_run_are_proved_to_be_the_straight_one(write_run, llama_dist, tmp_path):
    run = RunDirectory(tmp_path / "runs" / "proved")
    run_file = write_run("proved", train=TRAIN)
    onto = ("--onto", "parallel.zero_stage=3")
    proved = llama_dist("verify-resume", run_file, *TWO_RANKS, "--steps", "40", *onto)
    assert proved.returncode == 0, proved.stdout + proved.stderr
    assert "verdict: EQUAL" in proved.stdout
    (path,) = run.path.glob("verify_resume/*/verdict.json")
    assert proved.stdout.rstrip().endswith(f"kept in {path}")

    verdict = json.loads(path.read_text())
    interrupted, moved = verdict["findings"]
    assert (interrupted["run"], interrupted["tolerance"]) == ("interrupted", {"loss": 0.0, "state": 0.0})
    assert all(state["equal"] for state in interrupted["checkpoints"]["states"].values())
    assert (moved["run"], moved["topology"]["zero_stage"]) == ("moved", 3)
    assert 0 < moved["tolerance"]["loss"] <= 1e-4
    assert not list(path.parent.glob("*/checkpoints/step_*")), "what is large is removed"
    assert not run.checkpoints.exists() and not run.attempts.exists(), "the run itself has not begun"


def test_what_cannot_be_verified_is_refused_before_anything_starts(write_run, llama_dist, tmp_path):
    run_file = write_run("refused", train=TRAIN)
    for arguments, message in {
        ("--steps", "5"): "--steps 5: needs an even number",
        ("--steps", "62"): "train.num_steps is 60",
        ("--onto", "model.num_layers=3"): "model.num_layers",
    }.items():
        refused = llama_dist("verify-resume", run_file, *arguments)
        assert refused.returncode == 78 and message in refused.stderr, refused.stderr
    assert not list((tmp_path / "runs").glob("refused/verify_resume"))
