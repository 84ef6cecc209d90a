"""What the ranks decide from their votes: pure, so every case is tried."""

import itertools

import pytest

from llama_dist.train.decision import Decision, Vote, decide, limit_is_near


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


def test_the_limit_is_near_when_a_step_and_a_slow_save_might_not_fit():
    assert limit_is_near(9.9, step_seconds=1.0, save_seconds=6.0)
    assert not limit_is_near(10.1, step_seconds=1.0, save_seconds=6.0)
