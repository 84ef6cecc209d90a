"""An attempt that is over writes nothing, whichever of its writers comes back. Frozen ranks are in `integration/`."""

import json

import pytest
import torch

from llama_dist.checkpoint import transaction
from llama_dist.checkpoint.manifest import CheckpointError, Progress, list_steps, step_directory
from llama_dist.checkpoint.retention import Retention
from llama_dist.checkpoint.revocation import revoke_unfinished
from llama_dist.checkpoint.save import write_live
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.store import CheckpointStore
from llama_dist.checkpoint.transaction import Contents, index_of, write_transaction
from llama_dist.checkpoint.upload import Share, Uploader
from llama_dist.checkpoint.verify import verify_checkpoint
from llama_dist.checkpoint.writer import CheckpointWriter, layout_of
from llama_dist.config import CheckpointConfig, RunDirectory
from llama_dist.metrics.record import StepMetrics
from llama_dist.metrics.spool import Spool, read_spool
from llama_dist.parallel.engine import STATES, StatePartition
from llama_dist.runtime.fence import NO_FENCE, Fence, FencedError
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.train.batches import SampleAudit
from llama_dist.train.recorder import Recorder
from llama_dist.train.save_request import SaveRequest


class Engine:
    def __init__(self, value):
        self.tensors = {state: torch.full((6,), float(value)) for state in STATES}

    def partitions(self):
        yield StatePartition("weight", (2, 3), 0, self.tensors)

    def scalars(self):
        return {}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "x")
    run.attempt(1).mkdir(parents=True)
    run.metrics.mkdir()
    return run


@pytest.fixture
def fence(run):
    return Fence(run, 1)


def begin_attempt(run, number=2):
    run.attempt(number).mkdir()


def save(run, step, fence, value=None):
    """As a run saves: in the writer's thread."""
    writer = CheckpointWriter(run.checkpoints, SaveGroup.alone(), lambda *_: [], is_asynchronous=True, fence=fence)
    writer.begin(Engine(step if value is None else value), contents_of(step))
    writer.wait()


def contents_of(step):
    return Contents(Progress(step, step, {}, "test", {}, {}), {}, b"a tokenizer")


def files_of(run):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.path.rglob("*") if path.is_file()}


def metrics_of(step):
    return StepMetrics(
        step=step, tokens_seen=step, loss=1.0, learning_rate=0.1, gradient_norm=1.0, step_seconds=1.0,
        tokens_per_second=1.0, memory_gib=1.0,
    )  # fmt: skip


def test_the_newest_attempt_passes_and_an_older_one_learns_of_both(run, fence):
    fence.check()
    assert not fence.is_closed()
    begin_attempt(run)
    with pytest.raises(FencedError, match="attempt 1 of run `x`, and attempt 2 has begun") as refused:
        fence.check()
    assert refused.value.exit_code == 75
    Fence(run, 2).check()


def test_an_attempt_that_was_recorded_as_ended_is_over(run, fence):
    run.attempt_end(1).write_text("{}")
    with pytest.raises(FencedError, match=r"recorded as ended in .*exit\.json"):
        fence.check()


def test_what_belongs_to_no_run_always_passes(tmp_path):
    NO_FENCE.check()
    Fence(RunDirectory(tmp_path / "nowhere"), 1).check()


def test_heartbeats_of_an_old_attempt_are_not_written(run, fence):
    heartbeat = Heartbeat(run.heartbeat(0), 1, fence)
    heartbeat.beat(5, "train")
    begin_attempt(run)
    heartbeat.beat(6, "save")
    assert json.loads(run.heartbeat(0).read_text())["step"] == 5
    assert "step 6" in heartbeat.where(), "its own messages still tell where it was"


def test_metrics_audit_and_save_request_are_left_to_the_newer_attempt(run, fence):
    recorder = Recorder(run.metrics, fence, 10, rank=0, tell=lambda _: None)
    recorder.record(metrics_of(1))
    run.save_request.touch()
    begin_attempt(run)
    before = files_of(run)
    for write in (
        lambda: recorder.record(metrics_of(2)),
        recorder.close,
        lambda: SampleAudit(run.metrics, 0, fence).log(2, []),
        SaveRequest(run.save_request, fence).take,
    ):
        with pytest.raises(FencedError):
            write()
    assert files_of(run) == before


def test_ranks_that_record_nothing_learn_it_too(run, fence):
    recorder = Recorder(run.metrics, fence, 10, rank=1, tell=lambda _: None)
    recorder.record(metrics_of(1))
    begin_attempt(run)
    with pytest.raises(FencedError):
        recorder.record(metrics_of(2))


def test_a_line_that_an_old_attempt_had_under_way_supersedes_no_newer_one(run):
    spools = {attempt: Spool(run.metrics, attempt) for attempt in (1, 2)}
    for attempt, step in ((1, 1), (1, 2), (2, 2), (2, 3), (1, 3), (2, 4)):
        spools[attempt].append(metrics_of(step))
    records = [(one.attempt, one.metrics.step) for one in read_spool(run.spool)]
    assert records == [(1, 1), (1, 2), (2, 2), (2, 3), (2, 4)]


def test_an_old_attempt_neither_saves_nor_removes(run, fence):
    for step in (1, 2):
        save(run, step, fence)
    begin_attempt(run)
    before = files_of(run)
    with pytest.raises(FencedError):
        save(run, 3, fence)
    retention = Retention(run.checkpoints, CheckpointConfig(keep_last=1), lambda _: True, fence)
    with pytest.raises(FencedError):
        retention.remove_superseded(2)
    assert files_of(run) == before and list_steps(run.checkpoints) == [1, 2]


def test_an_attempt_that_ends_in_mid_save_publishes_nothing(run, fence):
    def write_and_be_overtaken(directory):
        owned = list(Engine(3).partitions())
        record = write_live(directory / "rank_00000.safetensors", layout_of(owned), owned, "host")
        begin_attempt(run)
        return [record]

    index = lambda: index_of([[["weight", (2, 3), 0, 6]]])  # noqa: E731
    with pytest.raises(FencedError):
        write_transaction(run.checkpoints, SaveGroup.alone(), contents_of(3), write_and_be_overtaken, index, fence)
    assert not list(run.checkpoints.iterdir())


@pytest.mark.parametrize("frozen_before", ["the directory's rename", "the manifest's rename"])
def test_a_process_frozen_between_its_look_at_the_fence_and_the_rename_publishes_nothing(
    run, monkeypatch, frozen_before
):
    """The newer attempt takes away what the rename needs, saves the same step itself, and is not disturbed."""
    save(run, 1, Fence(run, 1))
    frozen_in = "prepare_manifest" if frozen_before == "the directory's rename" else "sync_directory"
    real = getattr(transaction, frozen_in)
    newer = Fence(run, 2)

    def freeze(*arguments):
        real(*arguments)
        monkeypatch.setattr(transaction, frozen_in, real)
        begin_attempt(run)
        revoke_unfinished(run.checkpoints, newer)
        save(run, 2, newer, value=7.0)

    monkeypatch.setattr(transaction, frozen_in, freeze)
    with pytest.raises(CheckpointError, match="No such file"):
        save(run, 2, Fence(None, 1))  # as if it had looked before
    assert list_steps(run.checkpoints) == [1, 2]
    newest = step_directory(run.checkpoints, 2)
    assert verify_checkpoint(newest) == []
    assert not list(run.checkpoints.glob(".*"))


def test_a_newer_attempt_removes_what_older_ones_staged_and_an_older_one_never_the_newers(run):
    for name in ("staging_00000005", "staging_00000005_0001", "staging_00000005_0002", "staging_00000005_0003"):
        (run.checkpoints / f".{name}").mkdir(parents=True)
    begin_attempt(run)
    save(run, 1, Fence(run, 2))
    assert [path.name for path in run.checkpoints.glob(".staging_*")] == [".staging_00000005_0003"]


def test_an_old_attempt_uploads_nothing(run, fence, tmp_path):
    save(run, 1, fence)
    begin_attempt(run)
    share = Share(index=0, count=1, is_disk_leader=True, is_first=True)
    uploader = Uploader(CheckpointStore(str(tmp_path / "store"), "x"), share, fence)
    uploader.submit([step_directory(run.checkpoints, 1)])
    uploader.finish(30)
    (alert,) = uploader.take_alerts()
    assert "attempt 2 has begun" in alert
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
