"""What the keeper saves of a run and finds again. The engine is a few tensors; files, thread and group are real."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from llama_dist.checkpoint.manifest import (
    CheckpointError,
    Progress,
    finish_manifest,
    list_candidates,
    list_steps,
    read_manifest,
    step_directory,
)
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.config import ConfigError, RunDirectory, parse_run_config
from llama_dist.config.run_life import begin_life, read_life, read_saved
from llama_dist.parallel.engine import STATES, StatePartition
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.world import World
from llama_dist.train.keeper import CheckpointKeeper, Position

pytestmark = pytest.mark.usefixtures("world_of_one")


class Engine:
    grid = Grid(0, 1, 1)

    def __init__(self):
        self.shape, self.tensors = (2, 3), {state: torch.zeros(6) for state in STATES}
        self.restored = None

    def partitions(self):
        yield StatePartition("weight", self.shape, 0, self.tensors)

    def scalars(self):
        return {"optimizer_steps": 3.0}

    def restore(self, scalars):
        self.restored = scalars


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "x")
    run.metrics.mkdir(parents=True)
    return run


@pytest.fixture
def keeper_of(run, tmp_path):
    def build(**checkpoint):
        config = parse_run_config(
            {
                "name": "x",
                "model": {
                    "vocabulary_size": 8, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "feed_forward_size": 8,
                },
                "data": {"sources": [{"path": "x"}], "sequence_length_tokens": 16},
                "batch": {"global_batch_sequences": 4},
                "train": {"num_steps": 7},
                "checkpoint": checkpoint,
            },
            where="test",
        )  # fmt: skip
        tokenizer = tmp_path / "a.model"
        tokenizer.write_bytes(b"a tokenizer")
        stream = SimpleNamespace(tokenizer_path=tokenizer, state=lambda _consumed: SimpleNamespace(model_dump=dict))
        return CheckpointKeeper(run, World(0, 0, 1), config, stream, "test")

    return build


def test_a_save_says_where_the_run_stands_and_which_run_of_the_tracker_it_is(keeper_of, run):
    keeper = keeper_of()
    run.tracking_identity.write_text(json.dumps({"key": "abc", "run_id": None}))
    assert keeper.last_save_seconds is None and keeper.newest_step is None and keeper.write_seconds_left == 0
    keeper.save(Engine(), Position(5, 20), kind="asked", held_out_loss=1.5)
    keeper.finish()
    manifest = read_manifest(step_directory(run.checkpoints, 5))
    assert (manifest.step, manifest.tokens_seen, manifest.kind, manifest.held_out_loss) == (5, 320, "asked", 1.5)
    assert manifest.tracking == {"key": "abc", "run_id": None} and manifest.scalars == {"optimizer_steps": 3.0}
    assert keeper.last_save_seconds > 0 and keeper.newest_step == 5 and not keeper.is_writing


def test_a_step_that_is_saved_is_left_alone(keeper_of, run):
    keeper, path = keeper_of(), step_directory(run.checkpoints, 5)
    keeper.save(Engine(), Position(5, 20))
    keeper.save(Engine(), Position(5, 20), kind="stop")
    keeper.finish()
    assert read_manifest(path).kind == "interval"


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failed_save_is_told_once_and_raised_at_the_end_unless_a_later_one_works(keeper_of, run, asynchronous):
    keeper = keeper_of(asynchronous=asynchronous)
    run.checkpoints.write_text("in the way")
    keeper.save(Engine(), Position(1, 4))
    with pytest.raises(Exception, match="checkpoints: "):
        keeper.finish()
    assert len(keeper.take_alerts()) == 1 and keeper.take_alerts() == []
    run.checkpoints.unlink()
    keeper.save(Engine(), Position(2, 8))
    keeper.finish()
    assert list_steps(run.checkpoints) == [2]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def entries(run):
    return sorted(path.name for path in run.checkpoints.iterdir())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_does_not_read_back_is_no_checkpoint_and_pushes_none_out(keeper_of, run, monkeypatch, asynchronous):
    keeper = keeper_of(keep_last=1, asynchronous=asynchronous)
    keeper.save(Engine(), Position(1, 4))
    keeper.finish()

    def lying_disk(directory):
        finish_manifest(directory)
        flip(directory / "rank_00000.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr("llama_dist.checkpoint.transaction.finish_manifest", lying_disk)
        keeper.save(Engine(), Position(2, 8))
        with pytest.raises(CheckpointError, match=r"the checkpoint of step 2 was written, but.*rank_00000.*checksum"):
            keeper.finish()
    assert len(keeper.take_alerts()) == 1
    assert list_candidates(run.checkpoints) == [1] and keeper.newest_step == 1 and read_saved(run).step == 1
    keeper.save(Engine(), Position(3, 12))
    keeper.finish()
    assert entries(run) == ["latest", "step_00000003"]


def test_a_stop_is_not_read_back_and_the_last_that_was_stays_beside_it(keeper_of, run):
    keeper = keeper_of(keep_last=1)
    keeper.save(Engine(), Position(1, 4))
    keeper.save(Engine(), Position(2, 8), kind="stop")
    keeper.finish()
    assert list_steps(run.checkpoints) == [1, 2]


def test_a_damaged_one_that_was_passed_over_pushes_no_good_one_out(keeper_of, run):
    for step in (10, 20, 30):
        keeper = keeper_of(keep_last=9)
        keeper.save(Engine(), Position(step, step))
        keeper.finish()
    flip(step_directory(run.checkpoints, 30) / "rank_00000.safetensors")
    keeper = keeper_of(keep_last=2)
    assert keeper.restore_newest(Engine(), print).step == 20 and read_saved(run).step == 20
    for step in (25, 35):
        keeper.save(Engine(), Position(step, step))
    keeper.finish()
    assert list_steps(run.checkpoints) == [25, 30, 35]


def test_checkpoints_that_have_vanished_are_no_start_from_zero(keeper_of, run):
    keeper = keeper_of()
    keeper.save(Engine(), Position(5, 20))
    keeper.finish()
    shutil.rmtree(run.checkpoints)
    with pytest.raises(CheckpointError, match=r"holds no checkpoint, but run `x` has saved step 5.*--fresh"):
        keeper_of().restore_newest(Engine(), print)
    begin_life(run)
    assert keeper_of().restore_newest(Engine(), print) == Position()


def test_a_save_belongs_to_the_life_of_the_run(keeper_of, run, tmp_path):
    begin_life(run)
    keeper = keeper_of(upload=f"file://{tmp_path / 'store'}")
    keeper.save(Engine(), Position(5, 20))
    keeper.finish()
    keeper.finish_uploads(60)
    assert read_manifest(step_directory(run.checkpoints, 5)).life == read_life(run)
    assert (tmp_path / "store" / "x" / read_life(run) / "step_00000005" / "manifest.json").is_file()


def test_a_manifest_that_was_just_written_is_not_parsed_again(keeper_of, run, monkeypatch, tmp_path):
    def refuse(_directory):
        raise AssertionError("it is at hand")

    monkeypatch.setattr("llama_dist.checkpoint.retention.read_manifest", refuse)
    monkeypatch.setattr("llama_dist.checkpoint.upload.read_manifest", refuse)
    keeper = keeper_of(keep_last=1, upload=f"file://{tmp_path / 'store'}")
    for step in (1, 2):
        keeper.save(Engine(), Position(step, step))
    keeper.finish()
    keeper.finish_uploads(60)
    assert keeper.take_alerts() == []
    assert (step_directory(run.checkpoints, 2) / "uploaded.json").is_file()


def test_a_link_that_cannot_be_moved_is_not_told_as_files_that_cannot_be_removed(keeper_of, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system", "latest")

    monkeypatch.setattr("llama_dist.train.keeper.point_latest", refuse)
    keeper = keeper_of()
    keeper.save(Engine(), Position(5, 20))
    keeper.finish()
    (alert,) = keeper.take_alerts()
    assert "step 5 is saved, but: the link `latest` could not be moved: latest: Read-only" in alert


def test_an_imported_checkpoint_begins_at_the_first_sample(keeper_of, run):
    progress = Progress(0, 0, {}, "elsewhere", {}, data={}, kind="imported")
    weights = [("weight", state, torch.full((2, 3), 7.0)) for state in STATES]
    write_checkpoint(run.checkpoints, progress, weights, scalars={}, tokenizer=b"", states=STATES)
    engine, told = Engine(), []
    keeper = keeper_of()
    assert keeper.restore_newest(engine, told.append) == Position(0, 0)
    assert engine.tensors["fp32"].tolist() == [7.0] * 6 and engine.restored is not None
    assert "resumed from" in told[-1] and keeper.newest_step == 0


def test_a_host_without_the_memory_for_the_copy_is_refused_at_the_start(keeper_of):
    engine = Engine()
    engine.shape = (2**46,)
    engine.tensors = {state: torch.zeros(1).expand(2**46) for state in STATES}  # says much, takes nothing
    with pytest.raises(ConfigError, match=r"GiB available.*checkpoint\.asynchronous: false"):
        keeper_of().restore_newest(engine, print)
    assert keeper_of(asynchronous=False).restore_newest(engine, print) == Position()
