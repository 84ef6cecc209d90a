"""A checkpoint exists whole or not at all, and nothing of a damaged one is used."""

import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama_dist.checkpoint.describe import describe_all, verify_all
from llama_dist.checkpoint.load import agree_on_newest_good, find_newest_good, load_into, load_weights
from llama_dist.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointError,
    list_steps,
    read_manifest,
    step_directory,
)
from llama_dist.checkpoint.save import save_checkpoint
from llama_dist.checkpoint.save_group import SaveGroup, attempt

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture
def checkpoints(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def save(checkpoints, plain_engine, progress):
    def at(step, *, keep_last=10, with_complaint=False):
        engine = plain_engine(seed=step)
        complaint = save_checkpoint(checkpoints, engine, progress(step), tokenizer=b"a tokenizer", keep_last=keep_last)
        return (engine, complaint) if with_complaint else engine

    return at


def flip(path, at=-5):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_what_was_saved_is_loaded_into_every_copy(save, checkpoints, plain_engine):
    saved, loaded = save(1), plain_engine(seed=99)
    found = agree_on_newest_good(checkpoints, 0, 1)
    load_into(loaded, found)
    assert all(torch.equal(saved.state[key], loaded.state[key]) for key in saved.state)
    assert loaded.restored == {"optimizer_steps": 3.0}
    _, weights = load_weights(found.directory)
    assert torch.equal(weights["embed.weight"], saved.state["embed.weight", "fp32"].view(4, 3))


def test_a_directory_without_a_manifest_is_no_checkpoint(save, checkpoints):
    save(1), save(2)
    (step_directory(checkpoints, 2) / MANIFEST_NAME).unlink()
    assert list_steps(checkpoints) == [1]
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 1
    save(2)
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 2, "a later save of the step replaces it"


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "empty", "pickle", "manifest", "torn manifest"])
def test_a_damaged_checkpoint_is_passed_over_by_name(save, checkpoints, damage, tmp_path):
    save(1), save(2)
    directory = step_directory(checkpoints, 2)
    file = directory / "rank_00000.safetensors"
    canary = tmp_path / "canary"
    match damage:
        case "flip":
            flip(file)
        case "truncate":
            os.truncate(file, 20)
        case "delete":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "pickle":
            file.write_bytes(pickle.dumps(Bomb(canary)))
        case "manifest":
            file = directory / MANIFEST_NAME
            file.write_text(file.read_text().replace('"step": 2', '"step": 3'))
        case "torn manifest":
            file = directory / MANIFEST_NAME
            os.truncate(file, file.stat().st_size // 2)
    found = agree_on_newest_good(checkpoints, 0, 1)
    assert found.manifest.step == 1
    assert any(str(file) in fault for fault in found.passed_over)
    assert find_newest_good(checkpoints) == step_directory(checkpoints, 1)
    assert not canary.exists()


class Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_no_good_checkpoint_is_an_error_and_not_a_start_from_zero(save, checkpoints):
    assert agree_on_newest_good(checkpoints, 0, 1) is None, "a run that never saved starts at zero"
    save(1)
    flip(step_directory(checkpoints, 1) / "rank_00000.safetensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint is good(.|\n)*rank_00000(.|\n)*--fresh"):
        agree_on_newest_good(checkpoints, 0, 1)


def test_a_lost_manifest_is_an_error_too(save, checkpoints):
    save(1)
    (step_directory(checkpoints, 1) / MANIFEST_NAME).unlink()
    with pytest.raises(CheckpointError, match=r"manifest.json: cannot be read: No such file"):
        agree_on_newest_good(checkpoints, 0, 1)


def test_a_first_save_cut_off_before_its_last_rename_never_existed(save, checkpoints, monkeypatch):
    monkeypatch.setattr("llama_dist.checkpoint.transaction.finish_manifest", cut_off)
    with pytest.raises(SystemExit):
        save(1)
    monkeypatch.undo()
    assert step_directory(checkpoints, 1).is_dir(), "the kill came after the rename of the directory"
    assert agree_on_newest_good(checkpoints, 0, 1) is None
    save(1)
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 1


def test_what_a_kill_left_of_another_step_is_removed_by_the_next_save(save, checkpoints, monkeypatch):
    monkeypatch.setattr("llama_dist.checkpoint.transaction.finish_manifest", cut_off)
    with pytest.raises(SystemExit):
        save(1)
    monkeypatch.undo()
    save(2)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_00000002"]


def link(path):
    path.symlink_to(path.parent.parent)


def dangling_link(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("put", [link, dangling_link, Path.touch])
def test_what_is_no_directory_in_a_steps_place_gives_way_and_later_saves_work(save, checkpoints, put):
    checkpoints.mkdir()
    put(step_directory(checkpoints, 1))
    save(1), save(2)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_00000001", "step_00000002"]
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 2 and list_steps(checkpoints) == [1, 2]


def test_what_the_disk_refuses_is_told_with_its_path_and_what_to_do(tmp_path):
    def refuse(_path):
        raise OSError("Cannot call rmtree on a symbolic link")

    with pytest.raises(CheckpointError, match=rf"rank 0: {tmp_path}: Cannot call rmtree.*: free or mend that disk"):
        SaveGroup.alone().agree(attempt(refuse, tmp_path))


def cut_off(_directory):
    raise SystemExit


def test_older_files_that_cannot_be_removed_are_told_and_the_new_checkpoint_stands(save, checkpoints, monkeypatch):
    save(1)
    monkeypatch.setattr("llama_dist.checkpoint.save.point_latest", refuse)
    _, complaint = save(2, keep_last=1, with_complaint=True)
    assert "step 2 is saved" in complaint and "Read-only" in complaint
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 2


def refuse(*_):
    raise OSError(30, "Read-only file system", "latest")


def test_a_model_that_lacks_a_saved_parameter_is_refused(save, checkpoints, plain_engine):
    save(1)
    smaller = plain_engine(seed=1)
    smaller.partitions = lambda: iter([next(plain_engine(seed=1).partitions())])
    with pytest.raises(CheckpointError, match=r"embed\.weight: the checkpoint has it, the model does not"):
        load_into(smaller, agree_on_newest_good(checkpoints, 0, 1))


def test_latest_is_never_followed(save, checkpoints, tmp_path):
    save(1)
    (checkpoints / "latest").unlink()
    (checkpoints / "latest").symlink_to(tmp_path / "evil")
    assert agree_on_newest_good(checkpoints, 0, 1).directory == step_directory(checkpoints, 1)


def test_a_file_name_that_leads_out_is_refused(save, checkpoints):
    save(1)
    directory = step_directory(checkpoints, 1)
    manifest = read_manifest(directory)
    evil = manifest.files[0].__class__("../../evil", 1, "0")
    text = manifest.__class__(**{**manifest.__dict__, "files": (evil,)}).to_json()
    (directory / MANIFEST_NAME).write_text(text)
    with pytest.raises(CheckpointError, match="leads out"):
        read_manifest(directory)


def test_only_the_newest_are_kept(save, checkpoints):
    for step in (1, 2, 3, 4):
        save(step, keep_last=2)
    assert list_steps(checkpoints) == [3, 4]
    assert not list(checkpoints.glob("*0001*")) and not list(checkpoints.glob(".*"))


def test_pruning_never_counts_a_damaged_later_one_for_the_one_just_written(save, checkpoints):
    save(1), save(4)
    flip(step_directory(checkpoints, 4) / "rank_00000.safetensors")
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 1, "the run goes back past step 4"
    save(2, keep_last=1)
    assert list_steps(checkpoints) == [2, 4]
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 2


def test_a_full_disk_leaves_the_older_checkpoint_and_the_next_save_works(save, checkpoints):
    save(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CheckpointError, match="rank 0"):
            save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 1
    save(2)
    assert agree_on_newest_good(checkpoints, 0, 1).manifest.step == 2


def test_a_model_of_another_shape_is_refused_with_both_sides(save, checkpoints, plain_engine):
    save(1)
    other = plain_engine(seed=1)
    other.partitions = lambda: iter([next(plain_engine(seed=1).partitions()).__class__("norm.weight", (6,), 0, {})])
    with pytest.raises(CheckpointError, match=r"norm.weight: the model has shape \(6,\), the checkpoint \(5,\)"):
        load_into(other, agree_on_newest_good(checkpoints, 0, 1))


def test_files_are_for_the_owner_alone(save, checkpoints):
    save(1)
    for path in step_directory(checkpoints, 1).iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert step_directory(checkpoints, 1).stat().st_mode & 0o077 == 0


def test_list_and_verify_speak_of_every_checkpoint(save, checkpoints):
    save(1), save(2)
    assert [description.step for description in describe_all(checkpoints.parent)] == [1, 2]
    assert all(line.endswith("good") for line in verify_all(checkpoints.parent))
    flip(step_directory(checkpoints, 2) / "rank_00000.safetensors")
    with pytest.raises(CheckpointError, match="rank_00000"):
        list(verify_all(checkpoints.parent))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        describe_all(checkpoints)


@pytest.mark.parametrize("steps", [(1,), (1, 2)])
def test_verify_speaks_of_what_a_load_would_call_damaged(save, checkpoints, tmp_path, steps):
    for step in steps:
        save(step)
    (step_directory(checkpoints, 1) / MANIFEST_NAME).unlink()
    for path in (tmp_path, step_directory(checkpoints, 1)):
        with pytest.raises(CheckpointError, match=r"step_00000001/manifest.json: cannot be read: No such file"):
            list(verify_all(path))
    step_directory(checkpoints, 3).symlink_to(step_directory(checkpoints, steps[-1]))
    with pytest.raises(CheckpointError, match="step_00000003: is a link"):
        list(verify_all(tmp_path))


def test_the_keys_of_some_files_are_those_alone(save, checkpoints):
    save(1)
    manifest = read_manifest(step_directory(checkpoints, 1))
    every = manifest.keys_of(range(len(manifest.files)))
    assert manifest.files_with_tensors() == {0} and manifest.keys_of([0]) == {0: every[0]}
    assert len(every[0]) == 9 and every[1] == [] and manifest.keys_of([1]) == {1: []}


def test_asking_which_checkpoints_there_are_imports_no_torch():
    program = (
        "import sys, llama_dist.checkpoint.manifest, llama_dist.checkpoint.describe; "
        "print(json.dumps([name for name in ('torch', 'deepspeed') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {program}"], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []
