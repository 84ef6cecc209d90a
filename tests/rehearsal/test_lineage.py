"""Which repeated steps must agree bit for bit, and which may differ by rounding."""

from hypothesis import given
from hypothesis import strategies as st

from launcher.rehearsal.lineage import Repetition, find_repetitions


def attempts(*parts):
    """Losses from (attempt, first step, last step)."""
    return [(attempt, step, 3.0 - step / 10) for attempt, first, last in parts for step in range(first, last + 1)]


def repeated(losses, topologies):
    return [(one.step, one.is_same_lineage) for one in find_repetitions(losses, topologies)]


def test_steps_done_again_on_the_same_topology_must_be_alike():
    assert repeated(attempts((1, 1, 7), (2, 6, 9)), {1: "a", 2: "a"}) == [(6, True), (7, True)]


def test_steps_done_again_on_another_topology_may_round_otherwise():
    assert repeated(attempts((1, 1, 7), (2, 6, 9)), {1: "a", 2: "b"}) == [(6, False), (7, False)]


def test_the_same_topology_after_weights_of_another_may_round_otherwise():
    """Step 7 of the third attempt grew out of step 6 of the second, which is not that of the first."""
    losses = attempts((1, 1, 8), (2, 6, 6), (3, 7, 8))
    assert repeated(losses, {1: "a", 2: "b", 3: "a"}) == [(6, False), (7, False), (8, False)]


def test_a_step_is_held_against_the_time_it_was_done_alike_not_the_first_time():
    losses = [*attempts((1, 1, 7)), (2, 6, 5.0), *attempts((3, 6, 7))]
    found = find_repetitions(losses, {1: "a", 2: "b", 3: "a"})
    assert [(one.step, one.is_same_lineage) for one in found] == [(6, False), (6, True), (7, True)]
    assert [one.difference == 0 for one in found] == [False, True, True]


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 10)), min_size=1, max_size=6))
def test_a_run_of_one_topology_has_nothing_but_steps_that_must_be_alike(restarts):
    parts, reached = [(1, 1, 10)], 10
    for number, (back, onward) in enumerate(restarts, start=2):
        first = max(1, reached - back)
        reached = first + onward
        parts.append((number, first, reached))
    losses = attempts(*parts)
    found = find_repetitions(losses, dict.fromkeys(range(1, len(parts) + 1), "a"))
    assert all(one.is_same_lineage and one.is_within(0.0) for one in found)
    assert len(found) == len(losses) - len({step for _, step, _ in losses})


def test_one_bit_is_too_much_for_the_same_lineage_and_no_number_is_for_any():
    assert not Repetition(3, 2.0, 2.0000001, is_same_lineage=True).is_within(0.1)
    assert Repetition(3, 2.0, 2.0000001, is_same_lineage=False).is_within(1e-4)
    assert not Repetition(3, 2.0, 2.1, is_same_lineage=False).is_within(1e-4)
    assert not Repetition(3, 2.0, float("nan"), is_same_lineage=False).is_within(1e-4)
