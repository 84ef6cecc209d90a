"""The loop's order of things: what is saved, recorded and stopped when. The engine is a fake; the files are real."""

import dataclasses
import math

import pytest

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.config import parse_run_config
from llama_dist.metrics import Meter
from llama_dist.parallel.engine import StepResult
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.stop import StopRequest
from llama_dist.train.keeper import Position
from llama_dist.train.loop import DivergedError, Parts, has_diverged, train_steps

pytestmark = pytest.mark.usefixtures("world_of_one")


class FakeEngine:
    grid = Grid(0, 1, 1)

    def __init__(self, results=None):
        self.results, self.rates = results or {}, []

    def train_batch(self, _micro_batches, learning_rate):
        self.rates.append(learning_rate)
        return self.results.get(len(self.rates), StepResult(2.0, 1.0, skipped=False))


class FakeBatches:
    def __init__(self):
        self.positions = []

    def read(self, position):
        self.positions.append(position)
        return []


class FakeKeeper:
    """Saves into a list; may fail."""

    def __init__(self, failing=()):
        self.saved, self.failing, self.alerts, self.failure = [], failing, [], None

    def save(self, _engine, position, *, kind, held_out_loss=None):
        self.failure = CheckpointError("disk full") if position.step in self.failing else None
        if self.failure:
            self.alerts.append(str(self.failure))
        else:
            self.saved.append((position.step, kind))

    def finish(self):
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

    def losses(self, _engine):
        return {"held_out": 1.5, "code": 2.5}


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
        meter=Meter(tokens_per_step=64),
        tell=told.append,
    ), told


def test_every_step_is_read_once_recorded_once_and_the_last_is_saved(parts):
    parts, _ = parts
    assert train_steps(parts, Position())
    assert [position.consumed_samples for position in parts.batches.positions] == [0, 4, 8, 12, 16, 20, 24]
    assert [record.step for record in parts.recorder.records] == [1, 2, 3, 4, 5, 6, 7]
    assert [record.tokens_seen for record in parts.recorder.records] == [64 * step for step in range(1, 8)]
    assert [record.held_out_loss for record in parts.recorder.records] == [None, None, None, 1.5, None, None, None]
    assert [record.named_held_out_losses for record in parts.recorder.records][2:5] == [{}, {"code": 2.5}, {}]
    assert parts.keeper.saved == [(3, "interval"), (6, "interval"), (7, "end")]


def test_a_resumed_loop_goes_on_with_the_next_sample_and_the_schedule_of_its_step(parts):
    parts, _ = parts
    train_steps(parts, Position())
    again = dataclasses.replace(parts, engine=FakeEngine(), batches=FakeBatches(), recorder=FakeRecorder())
    train_steps(again, Position(step=5, consumed_samples=20))
    assert [position.consumed_samples for position in again.batches.positions] == [20, 24]
    assert again.engine.rates == parts.engine.rates[5:]


def test_a_stop_saves_the_step_that_was_done(parts):
    parts, _ = parts
    parts.stop.is_made = True
    assert not train_steps(parts, Position(step=1, consumed_samples=4))
    assert parts.keeper.saved == [(2, "stop")]


def test_a_finished_run_does_nothing_more(parts):
    parts, _ = parts
    assert train_steps(parts, Position(step=7, consumed_samples=28))
    assert parts.batches.positions == [] and parts.keeper.saved == []


def test_a_failed_save_in_mid_run_is_an_alert_and_the_last_one_an_error(parts):
    parts, told = parts
    failing = dataclasses.replace(parts, keeper=FakeKeeper(failing=(3,)))
    assert train_steps(failing, Position())
    assert failing.keeper.saved == [(6, "interval"), (7, "end")]
    assert any("ALERT" in line and "disk full" in line for line in told)
    with pytest.raises(CheckpointError):
        train_steps(dataclasses.replace(parts, keeper=FakeKeeper(failing=(7,))), Position())


# What DeepSpeed answers: it skips a bad step at ZeRO 1 to 3 in every precision, and takes it at ZeRO-0.
@pytest.mark.parametrize(
    "result",
    [
        StepResult(math.nan, math.inf, skipped=True),
        StepResult(2.0, math.inf, skipped=True),
        StepResult(2.0, math.nan, skipped=False),
    ],
)
def test_a_step_that_is_no_number_ends_the_run_before_it_is_saved(parts, result):
    parts, _ = parts
    diverged = dataclasses.replace(parts, engine=FakeEngine({3: result}), keeper=FakeKeeper(7))
    with pytest.raises(DivergedError, match="step 3 has loss"):
        train_steps(diverged, Position())
    assert diverged.keeper.saved == []


def test_an_fp16_overflow_is_no_divergence():
    overflow = StepResult(2.0, math.inf, skipped=True)
    assert not has_diverged(overflow, "fp16")
    assert has_diverged(overflow, "bf16") and has_diverged(overflow, "fp32")


def test_a_stop_in_the_last_step_is_a_finished_run(parts):
    parts, _ = parts
    parts.stop.is_made = True
    assert train_steps(parts, Position(step=6, consumed_samples=24))
