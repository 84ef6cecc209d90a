"""A run whose note of its tracker run was lost goes on as the run that its checkpoint names."""

import json

import pytest

from launcher.restored_tracking import restore_tracking
from llama_dist.checkpoint.manifest import MANIFEST_NAME, Manifest, step_directory
from llama_dist.config import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "x")


def save(run, step, tracking, name="x"):
    directory = step_directory(run.checkpoints, step)
    directory.mkdir(parents=True)
    manifest = Manifest(step, step, {"name": name}, "test", {}, {}, tracking=tracking)
    (directory / MANIFEST_NAME).write_text(manifest.to_json())


def test_the_newest_readable_checkpoint_names_the_run(run):
    (
        save(run, 1, {"key": "old"}),
        save(run, 2, {"key": "new", "run_id": "7"}),
        save(run, 3, {}),
        save(run, 4, {"key": 1}),
    )
    (step_directory(run.checkpoints, 4) / MANIFEST_NAME).write_text("torn")
    assert restore_tracking(run)
    assert json.loads(run.tracking_identity.read_text()) == {"key": "new", "run_id": "7"}
    assert run.tracking_identity.stat().st_mode & 0o077 == 0


def test_what_the_run_says_itself_stands(run):
    save(run, 1, {"key": "of the checkpoint"})
    run.metrics.mkdir()
    run.tracking_identity.write_text("{}")
    assert not restore_tracking(run) and run.tracking_identity.read_text() == "{}"


def test_a_run_that_begins_with_a_copy_of_anothers_checkpoints_is_a_run_of_its_own(run):
    assert not restore_tracking(run)
    save(run, 1, {"key": "theirs"}, name="other")
    assert not restore_tracking(run) and not run.tracking_identity.exists()
