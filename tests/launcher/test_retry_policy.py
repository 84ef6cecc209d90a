import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.causes import Cause
from launcher.ends import Outcome, RankEnd
from launcher.policy import Finish, Past, Retry, backoff_seconds, decide, describe
from llama_dist.config import SupervisionConfig
from llama_dist.exit_codes import ExitCode

LIMITS = SupervisionConfig(max_attempts_without_progress=3, first_backoff_seconds=1.0, max_backoff_seconds=60.0)
RETRYABLE = (None, 75)
statuses = st.one_of(st.none(), st.sampled_from([-9, -6, -11, -15, 1, 75, 70, 74, 78, 143]))
codes = st.sampled_from([None, 0, 70, 74, 75, 78, 143])
steps = st.one_of(st.none(), st.integers(0, 100))
manifests = st.frozensets(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=3)


@st.composite
def outcomes(draw, code=codes, status=statuses):
    ranks = draw(st.integers(1, 4))
    ends = tuple(RankEnd(rank, draw(status), draw(code), "why", draw(steps)) for rank in range(ranks))
    first = draw(st.one_of(st.none(), st.integers(0, ranks - 1)))
    return Outcome(1, ends, first, draw(manifests), draw(manifests), draw(st.booleans()))


def outcome(*ends, before=None, after=None, first=None, stop=False, agent=1):
    return Outcome(agent, ends, first, manifest_of(before), manifest_of(after), stop)


def manifest_of(step):
    return frozenset() if step is None else frozenset({(step, 1)})


def ended(rank, code, reason=""):
    return RankEnd(rank, code, code, reason, 7)


def killed(rank, number=signal.SIGKILL):
    return RankEnd(rank, -number, None, "", 57)


@given(outcomes(), st.integers(0, 10))
def test_an_outcome_is_either_final_with_a_known_code_or_retried_within_the_cap(result, without_progress):
    decision = decide(result, Past(without_progress=without_progress), LIMITS)
    if isinstance(decision, Finish):
        assert decision.exit_code in set(ExitCode)
        assert (decision.state == "done") == (decision.exit_code == 0)
        assert (decision.state == "stopped") == (decision.exit_code == 143)
    else:
        assert 0 < decision.delay_seconds <= LIMITS.max_backoff_seconds
        assert decision.past.without_progress < LIMITS.max_attempts_without_progress
    assert decision.reason


@given(outcomes(), st.integers(0, 10), st.sampled_from([78, 74]))
def test_one_rank_with_bad_input_or_storage_always_ends_the_run(result, without_progress, code):
    ends = (*result.ranks, RankEnd(len(result.ranks), None, code, "why", 1))
    spoiled = replace(result, ranks=ends)
    decision = decide(spoiled, Past(without_progress=without_progress), LIMITS)
    assert isinstance(decision, Finish)
    assert decision.exit_code in (78, 70, 74)


def test_a_run_whose_ranks_all_reached_the_last_step_is_done_however_its_agent_ended():
    """It was asked to leave, for more nodes or a stop, in the moment after."""
    done = [ended(rank, 0) for rank in range(2)]
    for resized in (False, True):
        decision = decide(replace(outcome(*done, agent=-signal.SIGTERM), is_resized=resized), Past(), LIMITS)
        assert isinstance(decision, Finish) and decision.state == "done"


def test_ranks_that_were_asked_to_make_room_before_they_listened_cost_no_attempt():
    asked = [RankEnd(0, -signal.SIGTERM, None, "", None), ended(1, 143)]
    decision = decide(replace(outcome(*asked, agent=1), is_resized=True), Past(), LIMITS)
    assert isinstance(decision, Retry) and decision.reason == "nodes have come back"
    assert decision.past.without_progress == 0
    failed = [killed(0), ended(1, 143)]
    assert decide(replace(outcome(*failed, agent=1), is_resized=True), Past(), LIMITS).cause == "killed by a signal"


def test_ranks_that_went_down_with_a_killed_torchrun_are_told_so():
    lost = [RankEnd(rank, None, None, "", 7) for rank in range(2)]
    decision = decide(outcome(*lost, agent=-signal.SIGKILL), Past(), LIMITS)
    assert isinstance(decision, Retry)
    assert decision.reason == "torchrun was killed by SIGKILL, and its ranks with it"
    assert decision.cause == "killed by a signal"


def killed_first(result):
    first = [end for end in result.ranks if end.rank == result.first_failed_rank]
    return any(end.recorded_code is None and end.status in (-9, -6, -11) for end in first)


def test_a_bug_told_by_the_peer_of_a_rank_killed_first_is_retried_until_the_limit():
    result = outcome(killed(1), ended(0, 70, "Traceback\nRuntimeError: connection closed"), first=1)
    decision = decide(result, Past(), LIMITS)
    assert isinstance(decision, Retry)
    assert decision.reason == "rank 1 was killed by SIGKILL at step 57"
    limit = decide(result, Past(without_progress=LIMITS.max_attempts_without_progress - 1), LIMITS)
    assert (limit.state, limit.exit_code) == ("failed", 75)


def test_a_bug_ends_the_run_where_it_came_first_or_the_agent_ended_the_other():
    assert decide(outcome(killed(1), ended(0, 70), first=0), Past(), LIMITS).exit_code == 70
    assert decide(outcome(killed(1, signal.SIGTERM), ended(0, 70), first=1), Past(), LIMITS).exit_code == 70


@pytest.mark.parametrize("code", [78, 74])
def test_bad_input_and_storage_end_the_run_even_beside_a_rank_killed_first(code):
    assert decide(outcome(killed(1), ended(0, code), first=1), Past(), LIMITS).exit_code == code


@given(outcomes())
def test_precedence_over_ranks_is_78_then_70_then_74(result):
    decision = decide(result, Past(), LIMITS)
    found = {end.code for end in result.ranks}
    for code in (78, 70, 74):
        if code == 70 and (found & {1} or killed_first(result)):  # an unknown code is a bug of ours
            return
        if code in found:
            assert decision.exit_code == code
            return


@given(outcomes(code=st.sampled_from(RETRYABLE), status=st.sampled_from([None, -9, -6, -15])))
def test_killed_or_lost_ranks_are_retried_as_long_as_checkpoints_advance(result):
    if not result.stop_requested and result.made_progress:
        assert isinstance(decide(result, Past(without_progress=LIMITS.max_attempts_without_progress), LIMITS), Retry)


def test_no_newer_checkpoint_in_k_attempts_ends_the_run():
    stuck = outcome(killed(1), ended(0, 75), before=50, after=50)
    decision = Retry(0, Past(), "", Cause.KILLED)
    for _ in range(LIMITS.max_attempts_without_progress):
        assert isinstance(decision, Retry)
        decision = decide(stuck, decision.past, LIMITS)
    assert isinstance(decision, Finish)
    assert (decision.state, decision.exit_code) == ("failed", 75)
    assert "rank 1 was killed by SIGKILL at step 57" in decision.reason


def test_progress_is_a_checkpoint_that_was_written_and_nothing_else():
    assert outcome(killed(0), before=None, after=0).made_progress
    assert outcome(killed(0), before=50, after=60).made_progress
    assert not outcome(killed(0), before=50, after=50).made_progress
    assert not outcome(killed(0), before=50, after=None).made_progress
    assert not outcome(killed(0), before=None, after=None).made_progress


def test_a_checkpoint_saved_below_a_damaged_one_or_in_its_place_is_progress():
    result = replace(outcome(killed(0)), manifests_before=frozenset({(80, 1), (100, 2)}))
    assert replace(result, manifests_after=frozenset({(80, 1), (90, 3), (100, 2)})).made_progress
    assert replace(result, manifests_after=frozenset({(80, 1), (100, 3)})).made_progress
    assert not replace(result, manifests_after=frozenset({(100, 2)})).made_progress  # one was pruned


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(100, 10_000))
def test_the_wait_grows_to_its_cap_and_never_shrinks(count, first, longest):
    limits = SupervisionConfig(first_backoff_seconds=first, max_backoff_seconds=longest)
    assert backoff_seconds(0, limits) == backoff_seconds(1, limits) == min(first, longest)
    assert backoff_seconds(count, limits) <= backoff_seconds(count + 1, limits) <= longest


def test_a_killed_rank_is_named_before_those_that_lost_it():
    decision = decide(
        outcome(ended(0, 75, "peer 1 lost"), killed(1), killed(2, signal.SIGTERM), after=50), Past(), LIMITS
    )
    assert decision.reason == "rank 1 was killed by SIGKILL at step 57"


def test_the_rank_that_failed_first_is_named_among_equals():
    decision = decide(outcome(ended(0, 78, "other"), ended(1, 78, "shard 3 is cut"), first=1), Past(), LIMITS)
    assert decision.culprit == 1
    assert "shard 3 is cut" in decision.reason


def test_a_stop_that_all_ranks_agreed_on_is_a_stop():
    decision = decide(outcome(ended(0, 143), ended(1, 143), after=9), Past(), LIMITS)
    assert (decision.state, decision.exit_code) == ("stopped", 143)
    assert "step 9" in decision.reason


def test_a_rank_that_the_agent_terminated_is_no_wish_to_stop():
    """torchrun sends SIGTERM to the survivors: they report 143 although nobody asked the run to stop."""
    assert isinstance(decide(outcome(ended(0, 143), killed(1), after=9), Past(), LIMITS), Retry)


def test_a_stop_that_was_asked_for_is_never_retried():
    decision = decide(outcome(ended(0, 75), killed(1), after=9, stop=True), Past(), LIMITS)
    assert (decision.state, decision.exit_code) == ("stopped", 143)


def test_a_process_that_never_reached_its_edge_is_a_bug_not_a_retry():
    decision = decide(outcome(RankEnd(0, 1, None, "", None)), Past(), LIMITS)
    assert (decision.state, decision.exit_code, decision.culprit) == ("failed", 70, 0)


def test_a_traceback_is_told_by_its_last_line():
    reason = "Traceback (most recent call last):\n  File x\nValueError: 3 is not 4\n"
    assert describe(ended(0, 70, reason)).endswith("ValueError: 3 is not 4")
