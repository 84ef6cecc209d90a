"""What the loop saves and does not: replicas that differ, requests, divergence, failed saves. Its parts are fakes."""

import math
import signal

import pytest
from loop_fakes import FakeEngine, FakeKeeper, FakeRecorder

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.config import RunDirectory
from llama_dist.parallel.engine import StepResult
from llama_dist.train.keeper import Position
from llama_dist.train.loop import DivergedError, has_diverged
from llama_dist.train.replicas import ReplicasDifferError

pytestmark = pytest.mark.usefixtures("world_of_one")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class ComparedEngine(FakeEngine):
    """Says which steps its replicas were compared after; from one on they differ, as far as a world of one can."""

    def __init__(self, broken_after=99):
        super().__init__()
        self.compared, self.broken_after = [], broken_after

    def weights_checksum(self):
        self.compared.append(len(self.rates))
        return 1


@pytest.fixture
def comparing(parts, monkeypatch):
    """A config that compares every 2 steps; gathers a second replica, which is another once the engine is broken."""
    config = parts[0].config
    supervision = config.supervision.model_copy(update={"compare_replicas_interval_steps": 2})
    engine = ComparedEngine()

    def gather(mine):
        rank, host, stage, checksum = mine
        return [mine, [rank + 1, host, stage, checksum + (len(engine.rates) >= engine.broken_after)]]

    monkeypatch.setattr("llama_dist.train.replicas.all_gather_json", gather)
    return config.model_copy(update={"supervision": supervision}), engine


def test_replicas_are_compared_at_their_interval_and_before_every_save(start, comparing):
    config, engine = comparing
    assert start(config=config, engine=engine) is None
    assert engine.compared == [2, 3, 4, 6, 7], "once a step, also where both are due"


def test_weights_that_differ_are_never_saved_and_the_last_step_of_equal_ones_is_named(parts, start, comparing):
    config, engine = comparing
    engine.broken_after = 3
    with pytest.raises(ReplicasDifferError, match=r"after step 3 .* last alike after step 2"):
        start(config=config, engine=engine)
    assert parts[0].keeper.saved == []
    engine.broken_after = 0
    with pytest.raises(ReplicasDifferError, match=r"not compared before in this attempt"):
        start(Position(step=5, consumed_samples=20), config=config, engine=engine)


def test_without_the_comparison_no_save_asks_for_it(parts, start):
    engine = ComparedEngine()
    assert start(engine=engine) is None and engine.compared == []


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

    def differ(_engine, step, _alike_after):
        if step == 4:
            raise ReplicasDifferError("rank 1 holds other weights")

    monkeypatch.setattr("llama_dist.train.replicas.compare_replicas", differ)
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
