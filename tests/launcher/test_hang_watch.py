"""When the watch says that an attempt stands still, in made-up time."""

import bisect
import dataclasses
import itertools
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backend import RankBeat
from launcher.hang_watch import HangWatch
from llama_dist.config import SupervisionConfig

LOOK_SECONDS = 0.5
LIMITS = SupervisionConfig()


def beat(step=0, phase="train", micro_batch=0, state="S"):
    return RankBeat("node1", 100, step, phase, micro_batch, 0.0, state)


def trained_watch(step_seconds=0.1, num_ranks=2, limits=LIMITS):
    """A watch that has seen some steps; answers it with the time and the step that it is at."""
    watch, now = HangWatch(limits, num_ranks), 0.0
    for look in range(int(max(20.0, 8 * step_seconds) / LOOK_SECONDS)):
        now = look * LOOK_SECONDS
        beats = dict.fromkeys(range(num_ranks), beat(int(now / step_seconds)))
        assert watch.observe(beats, now) is None
    return watch, now, int(now / step_seconds)


def seconds_until_stall(watch, beats, now, limit):
    """Look at beats that never change; answers after how long the watch complains."""
    look = now
    while look < now + limit:
        look += LOOK_SECONDS
        stall = watch.observe(beats, look)
        if stall:
            return look - now, stall
    return None, None


@settings(deadline=None)
@given(
    step_seconds=st.floats(0.05, 60),
    jitter=st.floats(0, 0.3),
    num_ranks=st.integers(1, 4),
    num_steps=st.integers(6, 12),
    draw=st.randoms(use_true_random=False),
)
def test_a_hang_is_seen_within_ten_seconds_or_three_median_steps_and_never_before_it(
    step_seconds, jitter, num_ranks, num_steps, draw
):
    num_steps = max(num_steps, int(5 / step_seconds))  # what ends between two looks is not measured
    durations = [step_seconds * draw.uniform(1 - jitter, 1 + jitter) for _ in range(num_steps)]
    ends = list(itertools.accumulate(durations))
    watch, now, stall = HangWatch(LIMITS, num_ranks), draw.uniform(0, LOOK_SECONDS), None
    while stall is None:
        now += LOOK_SECONDS
        stall = watch.observe(dict.fromkeys(range(num_ranks), beat(bisect.bisect_right(ends, now))), now)
    # The last step never began: the ranks hang from the end of the one before it.
    assert ends[-1] < now <= ends[-1] + max(10.0, 3 * statistics.median(durations[1:]))
    assert stall.is_whole and stall.ranks == tuple(range(num_ranks))


def test_a_first_step_that_compiles_for_minutes_is_no_hang():
    watch, now = HangWatch(LIMITS, 2), 0.0
    for phase, seconds in (("starting", 90), ("build", 200), ("resume", 300), ("read", 5), ("first step", 900)):
        for _ in range(int(seconds / LOOK_SECONDS)):
            assert watch.observe(dict.fromkeys(range(2), beat(1000, phase)), now) is None
            now += LOOK_SECONDS
    # Steps after it may compile again, for other shapes: three must have been measured before one is judged.
    for step in (1001, 1002, 1003):
        for _ in range(int(60 / LOOK_SECONDS)):
            assert watch.observe(dict.fromkeys(range(2), beat(step)), now) is None
            now += LOOK_SECONDS


def test_a_start_that_never_ends_is_a_hang_and_so_is_a_rank_that_was_never_seen():
    limits = SupervisionConfig(start_timeout_seconds=60)
    seconds, stall = seconds_until_stall(HangWatch(limits, 2), dict.fromkeys(range(2), beat(0, "build")), 0, 100)
    assert 60 <= seconds <= 61 and stall.is_whole
    watch, now = HangWatch(limits, 2), 0.0
    stall = None
    while stall is None:
        now += LOOK_SECONDS
        stall = watch.observe({0: beat(0, "build", int(now))}, now)
    assert stall.ranks == (1,) and not stall.is_whole and 60 <= now <= 61


@pytest.mark.parametrize("phase", ["evaluate", "save", "finish the save"])
def test_a_slow_phase_of_one_rank_gives_the_others_its_time(phase):
    watch, now, step = trained_watch()
    beats = {0: beat(step, phase), 1: beat(step, "train")}
    seconds, _ = seconds_until_stall(watch, beats, now, 3000)
    assert 1800 <= seconds <= 1801


def test_copies_to_the_store_have_a_limit_of_their_own():
    watch, now, step = trained_watch()
    assert seconds_until_stall(watch, dict.fromkeys(range(2), beat(step, "copy to the store")), now, 3600)[0] is None


def test_micro_batches_are_progress():
    watch, now, step = trained_watch(step_seconds=1)
    for micro_batch in range(40):
        now += 4
        assert watch.observe(dict.fromkeys(range(2), beat(step, "train", micro_batch)), now) is None


def test_one_rank_that_stands_while_others_go_on_is_a_hang():
    watch, now, step = trained_watch()
    stall, begun = None, now
    while stall is None:
        now += LOOK_SECONDS
        stall = watch.observe({0: beat(step, "train", int(2 * now)), 1: beat(step)}, now)
    assert stall.ranks == (1,) and not stall.is_whole and now - begun <= 10


@pytest.mark.parametrize("phase", ["starting", "first step", "train", "save", "copy to the store"])
def test_a_stopped_process_is_a_hang_in_every_phase(phase):
    watch, now, step = trained_watch()
    begun, stall = now, None
    while stall is None:
        now += LOOK_SECONDS
        stall = watch.observe({0: beat(step, phase, int(2 * now)), 1: beat(step, phase, int(2 * now), state="T")}, now)
    assert stall.ranks == (1,) and 8 <= now - begun <= 10


def test_a_process_that_was_stopped_for_a_moment_is_none():
    watch, now, step = trained_watch()
    for look in range(100):
        now += LOOK_SECONDS
        beats = {0: beat(step, "train", look), 1: beat(step, "train", look, state="T" if look % 12 else "S")}
        assert watch.observe(beats, now) is None


def test_ranks_that_have_ended_stand_still_by_right():
    watch, now, step = trained_watch()
    beats = {0: beat(step, "finish the save"), 1: beat(step, "done", state="")}
    for look in range(4000):
        now += LOOK_SECONDS
        assert watch.observe(beats | {0: dataclasses.replace(beats[0], micro_batch=look)}, now) is None


def test_a_supervisor_that_slept_does_not_blame_the_ranks():
    watch, now, step = trained_watch()
    beats = dict.fromkeys(range(2), beat(step))
    assert watch.observe(beats, now + 3600) is None
    seconds, _ = seconds_until_stall(watch, beats, now + 3600, 100)
    assert seconds <= 8


def test_null_switches_each_limit_off():
    limits = SupervisionConfig(
        hang_timeout_min_seconds=None, start_timeout_seconds=None, slow_phase_timeout_seconds=None
    )
    for phase in ("build", "train", "save"):
        watch, now, step = trained_watch(limits=limits)
        beats = {0: beat(step, phase), 1: beat(step, phase, state="T")}
        assert seconds_until_stall(watch, beats, now, 10_000)[0] is None
