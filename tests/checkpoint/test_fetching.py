"""Fetching where the store lacks files or fails, or the local disk is full: an older whole copy comes, or an error."""

import resource
import shutil

import pytest
from copies import ALONE, upload

from llama_dist.checkpoint.fetching import fetch
from llama_dist.checkpoint.manifest import CheckpointError, step_directory
from llama_dist.checkpoint.store import CheckpointStore


def lacks_a_file(step):
    next(step.glob("part_*.safetensors")).unlink()


def has_a_directory_as_file(step):
    lacks_a_file(step)
    (step / "part_00000.safetensors").mkdir()


@pytest.mark.parametrize("spoil", [lacks_a_file, has_a_directory_as_file])
def test_a_copy_that_lacks_a_file_is_passed_over_at_once(run, url, write, tmp_path, monkeypatch, spoil):
    monkeypatch.setattr("llama_dist.checkpoint.upload.time.sleep", lambda _: pytest.fail("it waited"))
    upload([write(1), write(2)], (CheckpointStore(url, "x"), ALONE))
    shutil.rmtree(run.checkpoints)
    spoil(tmp_path / "store" / "x" / "step_00000002")
    assert fetch(run, None, url) == step_directory(run.checkpoints, 1)
    with pytest.raises(CheckpointError, match=r"no step 2 to fetch.*lacks step_00000002/part_00000\.safetensors"):
        fetch(run, 2, url)


def test_a_store_that_fails_for_good_is_told_while_it_is_asked_and_the_older_copy_comes(run, url, write, monkeypatch):
    monkeypatch.setattr("llama_dist.checkpoint.upload._FIRST_DELAY_SECONDS", 0.001)
    upload([write(1), write(2)], (CheckpointStore(url, "x"), ALONE))
    shutil.rmtree(run.checkpoints)
    get = CheckpointStore._get

    def fail(store, there, path):
        if there.startswith("step_00000002/part"):
            raise ConnectionError("503 slow down")
        get(store, there, path)

    monkeypatch.setattr(CheckpointStore, "_get", fail)
    told = []
    assert fetch(run, None, url, tell=told.append) == step_directory(run.checkpoints, 1)
    assert len([line for line in told if "503 slow down): trying again in" in line]) == 7
    monkeypatch.setattr(CheckpointStore, "steps", lambda _: fail(None, "step_00000002/part", None))
    with pytest.raises(CheckpointError, match="cannot be read: ConnectionError: 503 slow down"):
        fetch(run, None, url)


def test_a_full_local_disk_is_told_once_and_no_older_copy_is_tried(run, url, write, monkeypatch):
    upload([write(1), write(2)], (CheckpointStore(url, "x"), ALONE))
    shutil.rmtree(run.checkpoints)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CheckpointError, match=r"File too large: free or mend the disk"):
            fetch(run, None, url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(run.checkpoints.iterdir()) == []
