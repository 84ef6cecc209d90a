import signal

from hypothesis import given
from hypothesis import strategies as st

from launcher.policy import Finish, Outcome, RankEnd, Retry, backoff_seconds, decide, describe
from llama_dist.config import SupervisionConfig
from llama_dist.exit_codes import ExitCode

LIMITS = SupervisionConfig(max_attempts_without_progress=3, first_backoff_seconds=1.0, max_backoff_seconds=60.0)
RETRYABLE = (None, 75)
statuses = st.one_of(st.none(), st.sampled_from([-9, -6, -11, -15, 1, 75, 70, 74, 78, 143]))
codes = st.sampled_from([None, 0, 70, 74, 75, 78, 143])
steps = st.one_of(st.none(), st.integers(0, 100))


@st.composite
def outcomes(draw, code=codes, status=statuses):
    ranks = draw(st.integers(1, 4))
    ends = tuple(RankEnd(rank, draw(status), draw(code), "why", draw(steps)) for rank in range(ranks))
    first = draw(st.one_of(st.none(), st.integers(0, ranks - 1)))
    return Outcome(1, ends, first, draw(steps), draw(steps), draw(st.booleans()))


def outcome(*ends, before=None, after=None, first=None, stop=False, agent=1):
    return Outcome(agent, ends, first, before, after, stop)


def ended(rank, code, reason=""):
    return RankEnd(rank, code, code, reason, 7)


def killed(rank, number=signal.SIGKILL):
    return RankEnd(rank, -number, None, "", 57)


@given(outcomes(), st.integers(0, 10))
def test_an_outcome_is_either_final_with_a_known_code_or_retried_within_the_cap(result, without_progress):
    decision = decide(result, without_progress, LIMITS)
    if isinstance(decision, Finish):
        assert decision.exit_code in set(ExitCode)
        assert (decision.state == "done") == (decision.exit_code == 0)
        assert (decision.state == "stopped") == (decision.exit_code == 143)
    else:
        assert 0 < decision.delay_seconds <= LIMITS.max_backoff_seconds
        assert decision.attempts_without_progress < LIMITS.max_attempts_without_progress
    assert decision.reason


@given(outcomes(), st.integers(0, 10), st.sampled_from([78, 70, 74]))
def test_one_rank_with_a_final_code_always_ends_the_run(result, without_progress, code):
    ends = (*result.ranks, RankEnd(len(result.ranks), None, code, "why", 1))
    spoiled = Outcome(1, ends, result.first_failed_rank, result.step_before, result.step_after, result.stop_requested)
    decision = decide(spoiled, without_progress, LIMITS)
    assert isinstance(decision, Finish)
    assert decision.exit_code in (78, 70, 74)


@given(outcomes())
def test_precedence_over_ranks_is_78_then_70_then_74(result):
    decision = decide(result, 0, LIMITS)
    found = {end.code for end in result.ranks}
    for code in (78, 70, 74):
        if code == 70 and found & {1}:  # an unknown code is a bug of ours
            return
        if code in found:
            assert decision.exit_code == code
            return


@given(outcomes(code=st.sampled_from(RETRYABLE), status=st.sampled_from([None, -9, -6, -15])))
def test_killed_or_lost_ranks_are_retried_as_long_as_checkpoints_advance(result):
    if not result.stop_requested and result.made_progress:
        assert isinstance(decide(result, LIMITS.max_attempts_without_progress, LIMITS), Retry)


def test_no_newer_checkpoint_in_k_attempts_ends_the_run():
    stuck = outcome(killed(1), ended(0, 75), before=50, after=50)
    decision = Retry(0, 0, "")
    for _ in range(LIMITS.max_attempts_without_progress):
        assert isinstance(decision, Retry)
        decision = decide(stuck, decision.attempts_without_progress, LIMITS)
    assert isinstance(decision, Finish)
    assert (decision.state, decision.exit_code) == ("failed", 75)
    assert "rank 1 was killed by SIGKILL at step 57" in decision.reason


def test_progress_is_a_newer_checkpoint_and_nothing_else():
    assert outcome(killed(0), before=None, after=0).made_progress
    assert outcome(killed(0), before=50, after=60).made_progress
    assert not outcome(killed(0), before=50, after=50).made_progress
    assert not outcome(killed(0), before=50, after=40).made_progress
    assert not outcome(killed(0), before=None, after=None).made_progress


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(100, 10_000))
def test_the_wait_grows_to_its_cap_and_never_shrinks(count, first, longest):
    limits = SupervisionConfig(first_backoff_seconds=first, max_backoff_seconds=longest)
    assert backoff_seconds(0, limits) == backoff_seconds(1, limits) == min(first, longest)
    assert backoff_seconds(count, limits) <= backoff_seconds(count + 1, limits) <= longest


def test_a_killed_rank_is_named_before_those_that_lost_it():
    decision = decide(outcome(ended(0, 75, "peer 1 lost"), killed(1), killed(2, signal.SIGTERM), after=50), 0, LIMITS)
    assert decision.reason == "rank 1 was killed by SIGKILL at step 57"


def test_the_rank_that_failed_first_is_named_among_equals():
    decision = decide(outcome(ended(0, 78, "other"), ended(1, 78, "shard 3 is cut"), first=1), 0, LIMITS)
    assert decision.culprit == 1
    assert "shard 3 is cut" in decision.reason


def test_a_stop_that_all_ranks_agreed_on_is_a_stop():
    decision = decide(outcome(ended(0, 143), ended(1, 143), after=9), 0, LIMITS)
    assert (decision.state, decision.exit_code) == ("stopped", 143)
    assert "step 9" in decision.reason


def test_a_rank_that_the_agent_terminated_is_no_wish_to_stop():
    """torchrun sends SIGTERM to the survivors: they report 143 although nobody asked the run to stop."""
    assert isinstance(decide(outcome(ended(0, 143), killed(1), after=9), 0, LIMITS), Retry)


def test_a_stop_that_was_asked_for_is_never_retried():
    decision = decide(outcome(ended(0, 75), killed(1), after=9, stop=True), 0, LIMITS)
    assert (decision.state, decision.exit_code) == ("stopped", 143)


def test_a_process_that_never_reached_its_edge_is_a_bug_not_a_retry():
    decision = decide(outcome(RankEnd(0, 1, None, "", None)), 0, LIMITS)
    assert (decision.state, decision.exit_code, decision.culprit) == ("failed", 70, 0)


def test_a_traceback_is_told_by_its_last_line():
    reason = "Traceback (most recent call last):\n  File x\nValueError: 3 is not 4\n"
    assert describe(ended(0, 70, reason)).endswith("ValueError: 3 is not 4")
