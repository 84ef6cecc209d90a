"""The state covers the past: another future resumes, another past is refused, and no sample comes twice."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from order_cases import LENGTH, config, order, rows, shape

from data_pipeline.errors import DataError
from data_pipeline.stream_state import StreamState
from data_pipeline.training_order import TrainingOrder

NUM_SAMPLES = 1500
SIZES = st.lists(st.integers(20, 300), min_size=1, max_size=3)
WEIGHTS = st.sampled_from([0, 1, 2, 5])


@st.composite
def futures(draw, first: int, num_sources: int):
    """Stages and skips that begin at sample `first` or later."""
    weights = st.lists(WEIGHTS, min_size=num_sources, max_size=num_sources).filter(any)
    stages = draw(st.lists(st.tuples(st.integers(max(1, first), first + NUM_SAMPLES), weights), max_size=2))
    skips = draw(st.lists(st.tuples(st.integers(first, first + NUM_SAMPLES), st.integers(0, 300)), max_size=2))
    return sorted(dict(stages).items()), [(start, start + length) for start, length in skips]


def build(sizes, weights, future, window_bytes) -> TrainingOrder:
    stages, skips = future
    shapes = [shape(*([7] * (size // 7)), size % 7, name=f"print {number}") for number, size in enumerate(sizes)]
    return TrainingOrder(config(*weights, stages=stages, skips=skips, shuffle_window_bytes=window_bytes), shapes)


def past_of(order: TrainingOrder, future, consumed: int):
    """The part of `future` that began before the next sample."""
    end = order.skips.end_of(consumed)
    return tuple([one for one in part if one[0] < end] for part in future), end


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_change_of_the_future_resumes_and_no_sample_is_repeated_or_lost(data):
    sizes = data.draw(SIZES)
    weights = data.draw(st.lists(WEIGHTS, min_size=len(sizes), max_size=len(sizes)).filter(any))
    window_bytes = data.draw(st.sampled_from([None, 200]))
    future = data.draw(futures(0, len(sizes)))
    before = build(sizes, weights, future, window_bytes)
    consumed = data.draw(st.integers(0, NUM_SAMPLES))
    (old_stages, old_skips), end = past_of(before, future, consumed)
    # Appended sources, and another future over all of them.
    sizes = sizes + data.draw(st.lists(st.integers(10, 100), max_size=2))
    weights = weights + [0] * (len(sizes) - len(weights))
    stages, skips = data.draw(futures(end, len(sizes)))
    after = build(sizes, weights, (old_stages + stages, old_skips + skips), window_bytes)

    after.check_state(StreamState.from_json(before.state(consumed).to_json()))
    positions = np.arange(consumed)
    assert rows(before.locate(positions)) == rows(after.locate(positions))
    # Over the whole run: each sample number once, each (source, epoch, sequence) once, no hole in an epoch.
    last = after.skips.end_of(NUM_SAMPLES)
    everything = rows(build(sizes, weights, (old_stages + stages, []), window_bytes).locate(np.arange(last)))
    taken = after.sample_numbers(np.arange(NUM_SAMPLES)).tolist()
    assert rows(after.locate(np.arange(NUM_SAMPLES))) == [everything[number] for number in taken]
    assert max(Counter(everything).values(), default=1) == 1
    for source, size in enumerate(sizes):
        epochs = Counter(epoch for other, epoch, _ in everything if other == source)
        assert all(epochs[epoch] == size for epoch in range(max(epochs, default=0)))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_resumes_has_the_same_past(data):
    """From few settings, so that many pairs agree up to some point."""

    def draw() -> tuple[list[int], TrainingOrder]:
        num_sources = data.draw(st.integers(1, 2))
        weights = [1, data.draw(st.sampled_from([0, 1]))][:num_sources]
        stages = data.draw(st.sampled_from([[], [(40, (1, 2))], [(40, (2, 4))], [(40, (1, 0)), (70, (1, 2))]]))
        skips = data.draw(st.sampled_from([[], [(20, 30)], [(20, 25), (24, 30)], [(60, 90)], [(20, 30), (60, 90)]]))
        sizes = [30, data.draw(st.sampled_from([25, 26]))][:num_sources]
        window_bytes = data.draw(st.sampled_from([None, None, 140]))
        stages = [(first, pair[:num_sources]) for first, pair in stages]
        return sizes, build(sizes, weights, (stages, skips), window_bytes)

    (first_sizes, first), (second_sizes, second), consumed = draw(), draw(), data.draw(st.integers(1, 100))
    # A size stands for the data itself: other data has another fingerprint.
    assume(len(first_sizes) != len(second_sizes) or first_sizes == second_sizes)
    try:
        second.check_state(first.state(consumed))
    except DataError:
        event("refused")
        return
    event("resumed")
    assert rows(first.locate(np.arange(consumed))) == rows(second.locate(np.arange(consumed)))


BASE = {"stages": [(100, (1, 3))], "skips": [(50, 59)], "seed": 4}
ALLOWED_AFTER_150 = {
    "a stage ahead": {"stages": [(100, (1, 3)), (160, (5, 0))]},
    "a skip ahead": {"skips": [(50, 59), (160, 170)]},
    "a skip that touches the last sample": {"skips": [(50, 59), (160, 160)]},
    "the same skips, cut otherwise": {"skips": [(50, 55), (52, 59)]},
    "the same shares, written otherwise": {"stages": [(100, (0.5, 1.5))]},
    "a cache": {"cache": {"directory": "x", "max_bytes": 1}},
}
REFUSED_AFTER_150 = {
    "a stage behind": ("mixture_hash", {"stages": [(90, (1, 1)), (100, (1, 3))]}),
    "a stage that moved": ("mixture_hash", {"stages": [(101, (1, 3))]}),
    "a stage at the last sample": ("mixture_hash", {"stages": [(100, (1, 3)), (159, (1, 1))]}),
    "no more stage": ("mixture_hash", {"stages": []}),
    "a skip behind": ("mixture_hash", {"skips": [(50, 59), (120, 120)]}),
    "a skip taken back": ("mixture_hash", {"skips": []}),
    "a window": ("mixture_hash", {"shuffle_window_bytes": 100}),
    "another packing": ("mixture_hash", {"packing": "best_fit"}),
    "a seed": ("seed", {"seed": 5}),
}


@pytest.mark.parametrize("change", ALLOWED_AFTER_150.values(), ids=ALLOWED_AFTER_150)
def test_what_lies_ahead_may_change(change):
    state = order((90, 80), 1, 1, **BASE).state(150)
    if "cache" in change:
        change = {"cache": config(1).model_validate({"sources": [{"path": "x"}], **change}).cache}
    order((90, 80), 1, 1, **(BASE | change)).check_state(state)


@pytest.mark.parametrize(("field", "change"), REFUSED_AFTER_150.values(), ids=REFUSED_AFTER_150)
def test_what_lies_behind_may_not_change_and_both_sides_are_told(field, change):
    saved = order((90, 80), 1, 1, **BASE).state(150)
    changed = order((90, 80), 1, 1, **(BASE | change))
    with pytest.raises(DataError) as refused:
        changed.check_state(saved)
    message = str(refused.value)
    assert "150 samples" in message
    assert f"{field}: saved {getattr(saved, field)!r}, now {getattr(changed.state(150), field)!r}" in message
    # Where the next stage may begin: after the last sample that was taken, skipped ones counted.
    assert f"starts_at_tokens >= {changed.skips.end_of(150) * LENGTH}" in message


def test_other_data_is_refused_once_it_was_drawn_from():
    settings = config(1, 0, stages=[(100, (1, 1))])
    first = TrainingOrder(settings, [shape(50, name="a"), shape(50, name="b")])
    second = TrainingOrder(settings, [shape(50, name="a"), shape(70, name="c")])
    second.check_state(first.state(100))
    with pytest.raises(DataError, match="fingerprint: saved"):
        second.check_state(first.state(101))


def test_a_source_may_be_appended_with_weight_0_and_drawn_from_later():
    state = order((90, 80), 1, 1).state(150)
    later = order((90, 80, 70), 1, 1, 0, stages=[(150, (1, 1, 2))])
    later.check_state(state)
    assert 2 in later.locate(np.arange(150, 200)).sources
    with pytest.raises(DataError, match=r"a new source goes last, with weight 0.*starts_at_tokens >= 1200"):
        order((90, 80, 70), 1, 1, 1).check_state(state)


def test_at_the_start_anything_goes():
    order((5, 9), 3, 1, seed=9, skips=[(0, 3)]).check_state(order((70,), 1, **{"seed": 4}).state(0))


def test_the_order_of_another_release_is_refused():
    saved = order((70,), 1).state(5).model_copy(update={"version": 1})
    with pytest.raises(DataError, match=r"version: saved 1, now 2 \(another release"):
        order((70,), 1).check_state(saved)


def test_the_state_has_at_most_512_bytes_with_many_stages_and_skips():
    stages = [(100 + number, (1, 1 + number)) for number in range(30)]
    skips = [(3 * number, 3 * number) for number in range(60)]
    many = order((2**40, 2**41), 1, 1, stages=stages, skips=skips, seed=2**63 - 1)
    state = many.state(2**60)
    assert len(state.to_json().encode()) <= 512
    assert StreamState.from_json(state.to_json()) == state
