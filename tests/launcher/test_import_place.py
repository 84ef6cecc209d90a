"""Where `checkpoint import` puts a run's first checkpoint: as a launch would, and never beside one."""

from functools import partial

import pytest

from launcher.errors import LiveRunError, RunDirectoryError
from launcher.import_place import hold_for_import
from launcher.run_lock import lock_run
from llama_dist.config import ConfigError, RunDirectory, load_run_config
from llama_dist.config.run_life import begin_life, note_saved


@pytest.fixture
def run(fake_run):
    return RunDirectory(fake_run.run_directory)


@pytest.fixture
def hold(fake_run, run):
    """Hold the run, under a config with these overrides; answers what is told."""

    def hold(*overrides):
        told = []
        return partial(hold_for_import, run, load_run_config(fake_run.run_file, overrides), tell=told.append)(), told

    return hold


def test_checkpoints_lie_where_the_config_says(hold, run, tmp_path):
    held, told = hold(f"checkpoint.directory={tmp_path / 'fast'}")
    with held:
        target = run.checkpoints.readlink()
        assert target.parent == tmp_path / "fast" and told == [f"run `fake`: its checkpoints lie in {target}"]
        (target / "step_00000000").mkdir()
    assert run.checkpoints.is_symlink()


def test_an_import_that_fails_leaves_no_link_and_no_place(hold, run, tmp_path):
    held, _ = hold(f"checkpoint.directory={tmp_path / 'fast'}")
    with pytest.raises(ZeroDivisionError), held:
        raise ZeroDivisionError
    assert not run.checkpoints.is_symlink() and list((tmp_path / "fast").iterdir()) == []


def test_nodes_disks_without_a_directory_are_refused_before_anything_is_made(hold, run):
    held, _ = hold("checkpoint.shared=false")
    with pytest.raises(ConfigError, match=r"checkpoint\.directory is not set"), held:
        pass
    assert not run.path.exists()


def test_a_live_run_and_one_whose_checkpoints_are_away_are_refused(hold, run):
    run.path.mkdir(parents=True)
    with lock_run(run, 60.0), pytest.raises(LiveRunError, match="run `fake` is live"), hold()[0]:
        pass
    begin_life(run)
    note_saved(run, 7)
    with pytest.raises(RunDirectoryError, match="has saved a checkpoint up to step 7"), hold()[0]:
        pass
