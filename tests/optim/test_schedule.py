"""The learning rate meets its stated end points and moves between them without a jump."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_dist.config import OptimizerConfig, ScheduleConfig
from llama_dist.optim import learning_rate

OPTIMIZER = OptimizerConfig(learning_rate=0.5)


def rates(schedule: ScheduleConfig, num_steps: int) -> list[float]:
    return [learning_rate(step, OPTIMIZER, schedule, num_steps) for step in range(num_steps)]


@st.composite
def schedules(draw: st.DrawFn) -> tuple[ScheduleConfig, int]:
    """Any schedule that the rules admit, with the length of its run."""
    num_steps = draw(st.integers(1, 60))
    kind = draw(st.sampled_from(["cosine", "linear", "wsd"]))
    decay = draw(st.integers(1, num_steps)) if kind == "wsd" else None
    warmup = draw(st.integers(0, num_steps - (decay or 0)))
    ratio = draw(st.floats(0, 1))
    return ScheduleConfig(kind=kind, warmup_steps=warmup, decay_steps=decay, final_learning_rate_ratio=ratio), num_steps


@given(schedules())
def test_every_schedule_rises_to_the_peak_then_falls_to_its_final_share(drawn: tuple[ScheduleConfig, int]) -> None:
    schedule, num_steps = drawn
    values = rates(schedule, num_steps)
    warmup = schedule.warmup_steps
    assert values[:warmup] == pytest.approx([0.5 * (step + 1) / warmup for step in range(warmup)])
    falling = values[max(warmup - 1, 0) :]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(falling))
    final = 0.5 * schedule.final_learning_rate_ratio
    assert all(final - 1e-12 <= value <= 0.5 + 1e-12 for value in falling)
    if len(falling) > 1:
        assert values[-1] == pytest.approx(final, abs=1e-12)


@pytest.mark.parametrize(("kind", "middle"), [("cosine", 0.5 * (0.1 + 0.9 * 0.5)), ("linear", 0.5 * (0.1 + 0.9 * 0.5))])
def test_first_update_without_warm_up_has_the_peak_and_the_middle_is_halfway(kind: str, middle: float) -> None:
    values = rates(ScheduleConfig(kind=kind), 21)
    assert (values[0], values[10], values[20]) == pytest.approx((0.5, middle, 0.05))


def test_cosine_is_a_cosine_and_linear_a_line() -> None:
    cosine, linear = (
        rates(ScheduleConfig(kind=kind, final_learning_rate_ratio=0.0), 5) for kind in ("cosine", "linear")
    )
    assert cosine == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 4)) for step in range(5)])
    assert linear == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0])


def test_warm_up_starts_above_zero_and_ends_at_the_peak() -> None:
    values = rates(ScheduleConfig(kind="linear", warmup_steps=4, final_learning_rate_ratio=0.0), 8)
    assert values == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.375, 0.25, 0.125, 0.0])


def test_wsd_is_stable_until_its_decay() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=2, decay_steps=4, final_learning_rate_ratio=0.2)
    assert rates(schedule, 10) == pytest.approx([0.25, *[0.5] * 5, 0.4, 0.3, 0.2, 0.1])


def test_a_run_that_is_all_warm_up_ends_at_the_peak() -> None:
    assert rates(ScheduleConfig(warmup_steps=3), 3)[-1] == 0.5


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(AssertionError, match="is not in a run of 10 steps"):
        learning_rate(step, OPTIMIZER, ScheduleConfig(), 10)
