"""The loop over fake parts: fixtures and fakes of the tests of `train/loop.py`."""

import dataclasses
import signal

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
from llama_dist.train.loop import Parts, train_steps
from llama_dist.train.replicas import ReplicaComparison
from llama_dist.train.save_request import SaveRequest

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


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

    last_save_seconds, former_save_seconds, write_seconds_left = None, None, 0.0

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
        replicas = ReplicaComparison(changed.engine, changed.config.supervision.compare_replicas_interval_steps)
        return train_steps(dataclasses.replace(changed, decisions=decisions, replicas=replicas), position)

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
        replicas=None,
        meter=Meter(tokens_per_step=64),
        tell=told.append,
    ), told
