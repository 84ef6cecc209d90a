"""A run whose note of its life was lost goes on in that of its newest checkpoint; any other run has one of its own."""

import pytest

from launcher.restored_life import settle_life
from llama_dist.checkpoint.manifest import MANIFEST_NAME, Manifest, step_directory
from llama_dist.config import RunDirectory
from llama_dist.config.run_life import is_life, note_saved, read_life, read_saved

OLD, NEW = "20260101T000000Z-0123abcd", "20260102T000000Z-0123abcd"


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "x")


def save(run, step, life, name="x"):
    directory = step_directory(run.checkpoints, step)
    directory.mkdir(parents=True)
    manifest = Manifest(step, step, {"name": name}, "test", {}, {}, life=life)
    (directory / MANIFEST_NAME).write_text(manifest.to_json())


def test_the_newest_readable_checkpoint_names_the_life(run):
    save(run, 1, OLD), save(run, 2, NEW), save(run, 3, OLD)
    (step_directory(run.checkpoints, 3) / MANIFEST_NAME).write_text("torn")
    settle_life(run)
    assert read_life(run) == NEW and read_saved(run).step is None
    assert run.life.stat().st_mode & 0o077 == run.saved.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("life", "name"), [("", "x"), ("../../elsewhere", "x"), (OLD, "other")])
def test_what_has_no_life_to_go_on_in_begins_one(run, life, name):
    save(run, 1, life, name)
    settle_life(run)
    assert is_life(read_life(run)) and read_life(run) != OLD


def test_what_another_life_saved_is_not_known_of_this_one(run):
    run.path.mkdir()
    settle_life(run)
    note_saved(run, 7)
    assert read_saved(run).step == 7
    run.life.unlink()
    assert read_saved(run) is None
    settle_life(run)
    assert read_saved(run).step is None
