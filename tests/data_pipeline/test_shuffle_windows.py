"""A windowed epoch is whole, reads from one window of groups at a time, and says which group it needs when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_cases import config, rows, shape

from data_pipeline.shuffle import SourceShape
from data_pipeline.training_order import NEVER, TrainingOrder

shapes = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 500)), min_size=1, max_size=20).filter(
    lambda groups: any(size for size, _ in groups)
)


def one_source(groups, window_bytes: int, seed: int = 0) -> TrainingOrder:
    sizes, num_bytes = zip(*groups, strict=True)
    return TrainingOrder(
        config(1, seed=seed, shuffle_window_bytes=window_bytes), [shape(*sizes, group_bytes=list(num_bytes))]
    )


def group_of(source: SourceShape, sequences: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(source.group_sizes), sequences, side="right")


@given(shapes, st.integers(1, 2000), st.integers(0, 2**63 - 1))
@settings(max_examples=80, deadline=None)
def test_windows_of_any_unequal_groups_tile_the_epoch_and_hold_every_sequence_once(groups, window_bytes, seed):
    order = one_source(groups, window_bytes, seed)
    source = SourceShape("a", *np.array(groups, dtype=np.int64).T)
    size = source.num_sequences
    for epoch in (0, 3):
        located = order.locate(np.arange(epoch * size, (epoch + 1) * size))
        assert np.array_equal(np.sort(located.sequences), np.arange(size))
        place, seen = 0, []
        while place < size:
            window = order.window(0, epoch, place)
            assert window.first_place == place < window.end_place
            last = order.window(0, epoch, window.end_place - 1)
            assert (last.first_place, last.groups.tolist()) == (window.first_place, window.groups.tolist())
            used = group_of(source, located.sequences[window.first_place : window.end_place])
            assert set(used.tolist()) == set(window.groups.tolist())
            # As many groups as fit, and one at least.
            assert window.num_bytes == source.group_bytes[window.groups].sum() <= order.most_resident_bytes
            assert window.num_bytes <= window_bytes or len(window.groups) == 1
            seen += window.groups.tolist()
            place = window.end_place
        assert sorted(seen) == np.flatnonzero(source.group_sizes).tolist()


def test_windows_hold_as_many_groups_as_fit():
    order = one_source([(4, 100)] * 10, 350)
    assert [len(order.window(0, 0, place).groups) for place in (0, 12, 24, 36)] == [3, 3, 3, 1]


def test_groups_and_sequences_are_shuffled_anew_in_each_epoch():
    order = one_source([(50, 100)] * 40, 400)
    first, second = (order.locate(np.arange(start, start + 2000)).sequences for start in (0, 2000))
    assert order.window(0, 0, 0).groups.tolist() != order.window(0, 1, 0).groups.tolist()
    assert first.tolist() != second.tolist()
    # Inside a window the groups are mixed: their runs are short.
    groups = first[:200] // 50
    assert np.count_nonzero(np.diff(groups)) > 100


def test_without_a_window_all_groups_are_needed():
    order = TrainingOrder(config(1, 1, 0), [shape(5, 0, 7), shape(3), shape(9)])
    current = order.windows(10)
    assert [(one.source, one.window.groups.tolist()) for one in current] == [(0, [0, 2]), (1, [0])]
    assert order.most_resident_bytes == 120 + 30


def test_the_present_windows_are_those_of_the_next_samples_of_the_sources_of_the_stage():
    sources = [shape(*[6] * 30, name="a"), shape(*[9] * 11, name="b"), shape(40, name="c")]
    order = TrainingOrder(config(2, 1, 0, stages=[(1500, (0, 1, 1))], shuffle_window_bytes=250), sources)
    located = order.locate(np.arange(4000))
    for position in (0, 17, 640, 1499, 1500, 1700):
        current = order.windows(position)
        assert [one.source for one in current] == ([0, 1] if position < 1500 else [1, 2])
        for one in current:
            following = position + int(np.flatnonzero(located.sources[position:] == one.source)[0])
            assert located.epochs[following] == one.epoch
            assert group_of(sources[one.source], located.sequences[following]) in one.window.groups
    # One window each; the largest group of the third source is larger than the window.
    assert order.most_resident_bytes == 250 + 400


@pytest.mark.parametrize("position", [0, 333, 1490, 1500, 2600])
def test_the_next_use_of_a_group_is_told_to_within_a_block(position):
    sources = [shape(*[60] * 30, 0, name="a"), shape(*[90] * 40, name="b"), shape(40, name="c")]
    changes = {"stages": [(1500, (0, 1, 1)), (3000, (1, 1, 0))], "skips": [(100, 199), (2000, 2099)]}
    order = TrainingOrder(config(2, 1, 0, shuffle_window_bytes=2500, **changes), sources)
    located = order.locate(np.arange(position, position + 12000))
    for number, source in enumerate(sources):
        told = order.next_uses(number, position)
        present = {one.source: one.window for one in order.windows(position)}
        for group in range(len(source.group_sizes)):
            own = (located.sources == number) & (group_of(source, located.sequences) == group)
            used = position + np.flatnonzero(own)
            if number in present and group in present[number].groups:
                assert told[group] == position
            elif len(used):
                # Its window begins with it or somewhat before: at most a window of its source, and a block, earlier.
                assert told[group] - 1024 <= used[0] <= told[group] + 1024 + 3 * 250
            else:
                assert told[group] == NEVER or told[group] > position + 12000 - 1024


def test_a_source_that_no_later_stage_draws_from_is_never_needed_again():
    order = TrainingOrder(config(1, 1, stages=[(50, (0, 1))], shuffle_window_bytes=60), [shape(5, 5), shape(5, 5)])
    assert (order.next_uses(0, 60) == NEVER).all()
    assert (order.next_uses(1, 60) < NEVER).all()


def test_windows_change_the_order_of_the_sequences_and_nothing_else():
    sources = [shape(30, 50), shape(20, 20)]
    whole, windowed = (
        rows(TrainingOrder(config(1, 1, shuffle_window_bytes=window), sources).locate(np.arange(500)))
        for window in (None, 300)
    )
    assert whole != windowed
    assert [row[:2] for row in whole] == [row[:2] for row in windowed]
