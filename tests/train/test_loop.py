"""The loop's order of things: what is saved, recorded and stopped when. The engine is a fake; the files are real."""

import dataclasses
import math
import os
import signal
import time

import pytest

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.config import RunDirectory, parse_run_config
from llama_dist.metrics import Meter
from llama_dist.parallel.engine import StepResult
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.stop import StopRequest
from llama_dist.runtime.world import World
from llama_dist.train.attempt import Attempt
from llama_dist.train.decision import Decisions
from llama_dist.train.keeper import Position
from llama_dist.train.loop import DivergedError, Parts, has_diverged, train_steps
from llama_dist.train.replicas import ReplicasDifferError
from llama_dist.train.save_request import SaveRequest

pytestmark = pytest.mark.usefixtures("world_of_one")


class FakeEngine:
    grid = Grid(0, 1, 1)

    def __init__(self, results=None):
        self.results, self.rates = results or {}, []

    def train_batch(self, _micro_batches, learning_rate, on_micro_batch):
        self.rates.append(learning_rate)
        on_micro_batch(1)
        return self.results.get(len(self.rates), StepResult(2.0, 1.0, skipped=False))


class FakeBatches:
    def __init__(self):
        self.positions = []

    def read(self, position):
        self.positions.append(position)
        return []


class FakeKeeper:
    """Saves into a list; may fail."""

    last_save_seconds, write_seconds_left = None, 0.0

    def __init__(self, failing=()):
        self.saved, self.failing, self.alerts, self.failure = [], failing, [], None
        self.held_out_losses, self.is_finished = {}, False

    def save(self, _engine, position, *, kind, held_out_loss=None):
        self.failure = CheckpointError("disk full") if position.step in self.failing else None
        if self.failure:
            self.alerts.append(str(self.failure))
        else:
            self.saved.append((position.step, kind))
            self.held_out_losses[position.step] = held_out_loss

    def finish(self):
        self.is_finished = True
        if self.failure:
            raise self.failure

    def take_alerts(self):
        alerts, self.alerts = self.alerts, []
        return alerts


class FakeRecorder:
    def __init__(self):
        self.records = []

    def record(self, metrics):
        self.records.append(metrics)

    def sync(self):
        pass


class FakeHeldOut:
    def is_due(self, step):
        return step == 4

    def losses(self, _engine, any_stop, on_micro_batch):
        on_micro_batch(1)
        return None if any_stop() else {"held_out": 1.5, "code": 2.5}


@pytest.fixture
def start(parts, tmp_path):
    """Run the loop from a position, with some parts replaced."""
    parts, _ = parts

    def run(position=Position(), **replaced):  # noqa: B008 - frozen
        changed = dataclasses.replace(parts, **replaced)
        attempt = Attempt(RunDirectory(tmp_path), 1, World(0, 0, 1))
        request = SaveRequest(attempt.run.save_request)
        decisions = Decisions(changed.config, attempt, changed.stop, changed.keeper, request)
        return train_steps(dataclasses.replace(changed, decisions=decisions), position)

    return run


@pytest.fixture
def parts(tmp_path):
    config = parse_run_config(
        {
            "name": "x",
            "model": {"vocabulary_size": 8, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "feed_forward_size": 8},
            "data": {"sources": [{"path": "x"}], "sequence_length_tokens": 16},
            "batch": {"global_batch_sequences": 4},
            "train": {"num_steps": 7},
            "checkpoint": {"interval_steps": 3},
        },
        where="test",
    )
    told = []
    return Parts(
        config=config,
        engine=FakeEngine(),
        batches=FakeBatches(),
        held_out=FakeHeldOut(),
        keeper=FakeKeeper(),
        recorder=FakeRecorder(),
        heartbeat=Heartbeat(tmp_path / "rank.json", 1),
        stop=StopRequest(),
        decisions=None,
        meter=Meter(tokens_per_step=64),
        tell=told.append,
    ), told


def test_every_step_is_read_once_recorded_once_and_the_last_is_saved(parts, start):
    parts, _ = parts
    assert start() is None
    assert [position.consumed_samples for position in parts.batches.positions] == [0, 4, 8, 12, 16, 20, 24]
    assert [record.step for record in parts.recorder.records] == [1, 2, 3, 4, 5, 6, 7]
    assert [record.tokens_seen for record in parts.recorder.records] == [64 * step for step in range(1, 8)]
    assert [record.held_out_loss for record in parts.recorder.records] == [None, None, None, 1.5, None, None, None]
    assert [record.named_held_out_losses for record in parts.recorder.records][2:5] == [{}, {"code": 2.5}, {}]
    assert parts.keeper.saved == [(3, "interval"), (6, "interval"), (7, "end")]


def test_a_resumed_loop_goes_on_with_the_next_sample_and_the_schedule_of_its_step(parts, start):
    parts, _ = parts
    start()
    engine, batches = FakeEngine(), FakeBatches()
    start(Position(step=5, consumed_samples=20), engine=engine, batches=batches)
    assert [position.consumed_samples for position in batches.positions] == [20, 24]
    assert engine.rates == parts.engine.rates[5:]


def test_the_phases_of_a_step_and_its_micro_batches_are_written_down(parts, start, monkeypatch):
    parts, _ = parts
    beats = []
    write = Heartbeat.beat

    def beat(self, step, phase, micro_batch=0):
        write(self, step, phase, micro_batch)
        beats.append((step, phase, micro_batch))

    monkeypatch.setattr(Heartbeat, "beat", beat)
    monkeypatch.setattr("llama_dist.runtime.heartbeat._MICRO_BATCH_SECONDS", 0.0)
    start(Position(step=2, consumed_samples=8))
    assert beats[:5] == [(2, "read", 0), (2, "first step", 0), (2, "first step", 1), (3, "save", 0), (3, "read", 0)]
    assert beats[5:9] == [(3, "train", 0), (3, "train", 1), (4, "evaluate", 0), (4, "evaluate", 1)]
    assert beats[-2:] == [(7, "save", 0), (7, "finish the save", 0)]


def test_a_stop_before_a_step_leaves_without_it_and_saves_what_was_done(parts, start):
    parts, _ = parts
    parts.stop.asked_at = time.monotonic()
    assert "asked to stop" in start(Position(step=2, consumed_samples=8))
    assert parts.keeper.saved == [(2, "stop")] and parts.engine.rates == []


def test_a_stop_breaks_off_a_wait_for_data_and_the_step_that_was_done_is_saved(parts, start):
    parts, _ = parts

    class StalledBatches(FakeBatches):
        def read(self, position):
            if position.step < 2:
                return []
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            raise AssertionError("the wait was not broken off")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        parts.stop.install()
        parts.stop.defer()
        assert "asked to stop" in start(batches=StalledBatches())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert parts.keeper.saved == [(2, "stop")]


def test_a_stop_during_the_last_step_is_a_finished_run(parts, start):
    parts, _ = parts

    class StoppingEngine(FakeEngine):
        def train_batch(self, *arguments):
            parts.stop.asked_at = time.monotonic()
            return super().train_batch(*arguments)

    assert start(Position(step=6, consumed_samples=24), engine=StoppingEngine()) is None
    assert parts.keeper.saved == [(7, "end")]


def test_a_stop_before_an_evaluation_leaves_its_value_out(parts, start):
    parts, _ = parts

    class StoppingEngine(FakeEngine):
        def train_batch(self, *arguments):
            parts.stop.asked_at = time.monotonic()
            return super().train_batch(*arguments)

    start(Position(step=3, consumed_samples=12), engine=StoppingEngine())
    assert [(record.step, record.held_out_loss) for record in parts.recorder.records] == [(4, None)]


def test_a_request_is_saved_once_and_training_goes_on(parts, start, tmp_path):
    parts, _ = parts
    RunDirectory(tmp_path).save_request.touch()
    assert start(Position(step=1, consumed_samples=4)) is None
    assert parts.keeper.saved[:2] == [(1, "asked"), (3, "interval")]
    assert not RunDirectory(tmp_path).save_request.exists()


def test_a_finished_run_does_nothing_more(parts, start):
    parts, _ = parts
    assert start(Position(step=7, consumed_samples=28)) is None
    assert parts.batches.positions == [] and parts.keeper.saved == []


def test_a_failed_save_in_mid_run_is_an_alert_and_the_last_one_an_error(parts, start):
    _, told = parts
    failing = FakeKeeper(failing=(3,))
    assert start(keeper=failing) is None
    assert failing.saved == [(6, "interval"), (7, "end")]
    assert any("ALERT" in line and "disk full" in line for line in told)
    with pytest.raises(CheckpointError):
        start(keeper=FakeKeeper(failing=(7,)))


# What DeepSpeed answers: it skips a bad step at ZeRO 1 to 3 in every precision, and takes it at ZeRO-0.
@pytest.mark.parametrize(
    "result",
    [
        StepResult(math.nan, math.inf, skipped=True),
        StepResult(2.0, math.inf, skipped=True),
        StepResult(2.0, math.nan, skipped=False),
    ],
)
def test_a_step_that_is_no_number_ends_the_run_before_it_is_saved(parts, start, result):
    parts, _ = parts
    with pytest.raises(DivergedError, match="step 3 has loss"):
        start(engine=FakeEngine({3: result}))
    assert parts.keeper.saved == []


@pytest.mark.parametrize("failing", [(), (3,)])
def test_a_save_under_way_is_finished_before_a_diverged_run_ends(parts, start, failing):
    _, told = parts
    keeper = FakeKeeper(failing)
    with pytest.raises(DivergedError):
        start(engine=FakeEngine({4: StepResult(math.nan, math.inf, skipped=True)}), keeper=keeper)
    assert keeper.is_finished
    assert any("disk full" in line for line in told) == bool(failing)


def test_so_it_is_before_a_run_ends_whose_replicas_differ(parts, start, monkeypatch):
    parts, _ = parts

    def differ(_engine, step):
        if step == 4:
            raise ReplicasDifferError("rank 1 holds other weights")

    monkeypatch.setattr("llama_dist.train.loop.compare_replicas", differ)
    supervision = parts.config.supervision.model_copy(update={"compare_replicas_interval_steps": 1})
    with pytest.raises(ReplicasDifferError):
        start(config=parts.config.model_copy(update={"supervision": supervision}))
    assert parts.keeper.is_finished and parts.keeper.saved == [(3, "interval")]


def test_a_save_that_was_asked_for_knows_the_loss_that_was_measured_at_its_step(parts, start, tmp_path):
    parts, _ = parts

    class AskingRecorder(FakeRecorder):
        def record(self, metrics):
            if metrics.step in (4, 5):
                RunDirectory(tmp_path).save_request.touch()

    start(recorder=AskingRecorder())
    assert parts.keeper.saved[:3] == [(3, "interval"), (4, "asked"), (5, "asked")]
    assert {step: parts.keeper.held_out_losses[step] for step in (3, 4, 5)} == {3: None, 4: 1.5, 5: None}


def test_an_fp16_overflow_is_no_divergence():
    overflow = StepResult(2.0, math.inf, skipped=True)
    assert not has_diverged(overflow, "fp16")
    assert has_diverged(overflow, "bf16") and has_diverged(overflow, "fp32")
