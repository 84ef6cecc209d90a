"""The loop's order: reading, deciding, saving, leaving. Its parts are fakes, its decisions real."""

import os
import signal
import time

import pytest
from loop_fakes import FakeBatches, FakeEngine

from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.train.keeper import Position

pytestmark = pytest.mark.usefixtures("world_of_one")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


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

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        parts.stop.install()
        parts.stop.defer()
        assert "asked to stop" in start(batches=StalledBatches())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert parts.keeper.saved == [(2, "stop")]


# The limit is a timer of the process, which pytest's own time limit would share.
@pytest.mark.timeout(60, method="thread")
def test_the_limit_breaks_off_a_wait_for_data_and_the_step_that_was_done_is_saved(parts, start):
    parts, _ = parts

    class StalledBatches(FakeBatches):
        def read(self, position):
            if position.step == 2:
                time.sleep(60)
                raise AssertionError("the wait was not broken off")
            return []

    supervision = parts.config.supervision.model_copy(update={"wall_clock_limit_minutes": 0.02})
    config = parts.config.model_copy(update={"supervision": supervision})
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    try:
        parts.stop.install()
        parts.stop.defer()
        assert "limit is near" in start(config=config, batches=StalledBatches())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert parts.keeper.saved == [(2, "stop")]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


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
