"""Launches through programs that stand for Slurm's. A real Slurm is in `tests/fleet`."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import yaml
from fake_slurm import FakeSlurm

from launcher.console import Console
from launcher.errors import LiveRunError, SubmissionError
from launcher.launch import LaunchRequest, check_launch
from launcher.queued_job import noted_job
from launcher.stored_request import request_from_json
from launcher.submit import submit
from llama_dist.config import ConfigError, RunDirectory

SLURM = ("cluster.backend=slurm",)


@pytest.fixture
def slurm(fake_run, monkeypatch):
    return FakeSlurm(fake_run.path, monkeypatch)


def submitted(fake_run, *overrides, cluster_file=None):
    """Submit the run and return its directory."""
    request = LaunchRequest(fake_run.run_file, cluster_file, (*SLURM, *overrides))
    launch = check_launch(request, {"PATH": os.environ["PATH"]})
    assert submit(launch, Console()) == 0
    return RunDirectory(fake_run.run_directory)


def launch_of_job(run):
    """What the job of the run would launch."""
    return check_launch(request_from_json(json.loads((run.path / "submission.json").read_text())), os.environ)


def test_whether_a_job_was_submitted_is_told_to_be_unknown_where_sbatch_gives_no_answer(fake_run, slurm, monkeypatch):
    slurm.answer("sbatch", "exec sleep 60")
    monkeypatch.setattr("launcher.submit._SUBMIT_SECONDS", 0.2)
    with pytest.raises(SubmissionError, match=r"no answer in 0 s: whether .*squeue --me --name=fake"):
        submitted(fake_run)


def test_a_job_launches_what_was_submitted_though_the_files_are_edited_or_gone_when_it_starts(
    fake_run, slurm, monkeypatch
):
    """Also a model in a file of its own, and paths that count from the working directory."""
    monkeypatch.chdir(fake_run.path)
    files = fake_run.path / "files"
    files.mkdir()
    values = yaml.safe_load(fake_run.run_file.read_text())
    (files / "model.yaml").write_text(yaml.safe_dump(values["model"]))
    values |= {"model": "files/model.yaml", "runs_directory": "runs", "data": values["data"] | {"sources": ["data"]}}
    values["data"]["sources"] = [{"path": "data"}]
    fake_run.run_file.write_text(yaml.safe_dump(values))
    cluster_file = files / "cluster.yaml"
    cluster_file.write_text(yaml.safe_dump({"backend": "slurm", "spare_nodes": 1}))
    before = check_launch(
        LaunchRequest(fake_run.run_file, cluster_file, (*SLURM, "train.num_steps=7", "cluster.node_timeout_seconds=9")),
        os.environ,
    )
    run = submitted(fake_run, "train.num_steps=7", "cluster.node_timeout_seconds=9", cluster_file=cluster_file)
    fake_run.run_file.write_text("name: another\n")
    (files / "model.yaml").unlink()
    cluster_file.unlink()
    after = launch_of_job(run)
    assert (after.config, after.cluster, after.run) == (before.config, before.cluster, before.run)
    assert after.config.train.num_steps == 7 and after.config.data.sources[0].path == "data"
    for name in ("submission.json", "submission.run.yaml", "submission.cluster.yaml"):
        assert (run.path / name).stat().st_mode & 0o077 == 0, name
    assert str(fake_run.run_file) in (run.path / "submission.run.yaml").read_text()


def test_a_job_that_finds_its_config_damaged_names_the_copy(fake_run, slurm):
    run = submitted(fake_run)
    (run.path / "submission.run.yaml").write_text("name: [\n")
    with pytest.raises(ConfigError, match=r"fake/submission\.run\.yaml: not valid YAML"):
        launch_of_job(run)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED"])
def test_a_second_launch_is_refused_while_slurm_has_the_job_of_the_first(fake_run, slurm, state):
    run = submitted(fake_run)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    slurm.queue(state)
    with pytest.raises(
        LiveRunError, match=rf"is Slurm job 17 already \({state}\).*llama-dist stop .*scancel 17"
    ) as told:
        submitted(fake_run, "train.num_steps=9")
    assert told.value.exit_code == 78
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


@pytest.mark.parametrize("state", ["", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"])
def test_a_run_whose_job_is_over_can_be_submitted_again(fake_run, slurm, state):
    submitted(fake_run)
    if state:
        slurm.queue(state)
    slurm.answer("sbatch", "echo 18")
    run = submitted(fake_run, "train.num_steps=9")
    assert noted_job(run) == "18" and launch_of_job(run).config.train.num_steps == 9


def test_a_launch_waits_for_a_job_that_slurm_clears_away(fake_run, slurm, monkeypatch):
    monkeypatch.setattr("launcher.queued_job._POLL_SECONDS", 0.01)
    submitted(fake_run)
    slurm.queue("COMPLETING")
    slurm.answer("squeue", f"cat {slurm.path}/queue", f"echo COMPLETED > {slurm.path}/queue")
    submitted(fake_run)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"], "Unable to contact"),
        (["exec sleep 60"], "no answer in 0 s"),
        (None, "squeue: not found"),
    ],
)
def test_a_launch_that_cannot_ask_for_the_first_job_says_so_and_goes_on(
    fake_run, slurm, capsys, monkeypatch, lines, told
):
    submitted(fake_run)
    monkeypatch.setattr("launcher.queued_job._ANSWER_SECONDS", 0.3)
    if lines is None:
        monkeypatch.setattr("launcher.queued_job.shutil", SimpleNamespace(which=lambda _: None))
    else:
        slurm.answer("squeue", *lines)
    submitted(fake_run)
    output = capsys.readouterr().out
    assert "submitted as Slurm job 17 before" in output and told in output


def test_of_two_launches_at_once_one_submits(fake_run, slurm):
    slurm.answer("sbatch", f"touch {slurm.path}/begun; until [ -e {slurm.path}/go ]; do sleep 0.02; done; echo 17")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(submitted, fake_run)
        try:
            while not (slurm.path / "begun").exists():
                assert not first.done()
                time.sleep(0.01)
            with pytest.raises(LiveRunError, match="is being submitted by another launch just now"):
                submitted(fake_run)
        finally:
            (slurm.path / "go").touch()
        assert noted_job(first.result(30)) == "17"


@pytest.mark.parametrize("content", ['{"job": "17; touch canary"}', '{"job": 17}', "[", '{"job": "--me"}'])
def test_a_damaged_note_names_no_job(tmp_path, content):
    (tmp_path / "slurm_job.json").write_text(content)
    assert noted_job(RunDirectory(tmp_path)) is None
