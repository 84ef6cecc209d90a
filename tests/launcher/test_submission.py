"""Launches through programs that stand for Slurm's. A real Slurm is in `tests/fleet`."""

import json
import os

import pytest
import yaml
from fake_slurm import FakeSlurm

from launcher.console import Console
from launcher.errors import SubmissionError
from launcher.launch import LaunchRequest, check_launch
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
