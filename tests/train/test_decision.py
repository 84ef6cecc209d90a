"""What the ranks decide from their votes: pure, so every case is tried. And what a rank votes."""

import itertools
import time
from types import SimpleNamespace

import pytest

from llama_dist.config import RunDirectory
from llama_dist.runtime.process_group import World
from llama_dist.runtime.stop import StopRequest
from llama_dist.train.attempt import Attempt
from llama_dist.train.decision import Decision, Decisions, Vote, decide
from llama_dist.train.save_request import SaveRequest


def test_nothing_asked_is_nothing_done():
    assert decide(Vote(save_seconds=9.0, write_seconds_left=3.0), 90.0) == Decision()


def test_a_stop_saves_and_leaves_whatever_else_was_asked():
    for limit, save, interval in itertools.product((0.0, 1.0), repeat=3):
        vote = Vote(stop_is_asked=1.0, limit_is_near=limit, save_is_asked=save, interval_is_over=interval)
        decision = decide(vote, 90.0)
        assert (decision.save, decision.leave) == ("stop", True)


def test_the_sentence_says_the_arithmetic():
    decision = decide(Vote(stop_is_asked=1.0, seconds_since_asked=2.0, save_seconds=60.0), 92.0)
    assert (decision.because, decision.how) == ("asked to stop", "90 s of grace, a save takes 60.0 s: saving now")


@pytest.mark.parametrize(("write_seconds_left", "saves"), [(0.0, True), (29.0, True), (31.0, False)])
def test_a_stop_does_not_endanger_the_save_under_way(write_seconds_left, saves):
    vote = Vote(stop_is_asked=1.0, save_seconds=60.0, write_seconds_left=write_seconds_left)
    decision = decide(vote, 90.0)
    assert decision.leave and (decision.save == "stop") is saves


def test_a_save_too_long_for_the_grace_is_tried_where_nothing_is_endangered():
    assert decide(Vote(stop_is_asked=1.0, save_seconds=600.0), 90.0).save == "stop"


def test_a_limit_saves_and_leaves_and_a_request_or_the_clock_saves_and_goes_on():
    assert decide(Vote(limit_is_near=1.0, save_is_asked=1.0), 90.0).leave
    assert decide(Vote(save_is_asked=1.0, interval_is_over=1.0), 90.0) == Decision("asked")
    assert decide(Vote(interval_is_over=1.0), 90.0) == Decision("clock")


@pytest.fixture
def decisions_at(tmp_path, world_of_one):
    """The decisions of an attempt that has so many seconds left of its 100 minutes."""

    def build(seconds_left, **keeper):
        config = SimpleNamespace(
            supervision=SimpleNamespace(wall_clock_limit_minutes=100.0, stop_grace_seconds=120.0),
            checkpoint=SimpleNamespace(interval_minutes=None),
        )
        started = time.monotonic() - (6000 - seconds_left)
        attempt = Attempt(RunDirectory(tmp_path), 1, World(1, 1, 2), started)
        saves = SimpleNamespace(
            **{"last_save_seconds": None, "former_save_seconds": None, "write_seconds_left": 0.0} | keeper
        )
        return Decisions(config, attempt, StopRequest(), saves, SaveRequest(tmp_path / "request"))

    return build


def test_before_the_first_save_the_limit_reckons_with_the_runs_last_one_or_half_the_grace(decisions_at):
    assert decisions_at(88).take().leave and not decisions_at(92).take().leave
    assert decisions_at(298, former_save_seconds=200.0).take().leave
    assert not decisions_at(302, former_save_seconds=200.0).take().leave
    assert not decisions_at(88, former_save_seconds=200.0, last_save_seconds=1.0).take().leave, "a measured one counts"


def test_a_guess_never_takes_so_much_of_the_limit_that_no_step_is_trained(decisions_at):
    assert not decisions_at(5990, former_save_seconds=100_000.0).take().leave


def test_the_limit_cuts_an_evaluation_short_and_wakes_a_wait_for_data_in_time(decisions_at):
    assert decisions_at(88).any_stop() and not decisions_at(92).any_stop()
    assert 0 < decisions_at(92).seconds_until_limit() <= 2
    assert decisions_at(88).seconds_until_limit() <= 0


def test_the_limit_is_near_when_a_step_and_a_slow_save_might_not_fit(decisions_at):
    saves = {"last_save_seconds": 4.0, "write_seconds_left": 2.0}
    assert decisions_at(8.9, **saves).take().leave
    decisions = decisions_at(9.9, **saves)
    assert not decisions.take().leave
    decisions._step_seconds.append(1.0)
    assert decisions.take().leave
