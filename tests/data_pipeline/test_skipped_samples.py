"""Skipped samples are passed over and nothing else moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_cases import order, rows

from data_pipeline.config import ConfigError, SampleRange, parse_config
from data_pipeline.skips import SkipLine

ranges = st.lists(
    st.tuples(st.integers(0, 80), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6
)


def skip_line(pairs) -> SkipLine:
    return SkipLine([SampleRange(first=first, last=last) for first, last in pairs])


@given(ranges)
def test_positions_count_the_samples_that_are_left_in_any_overlap_of_ranges(pairs):
    line = skip_line(pairs)
    skipped = {number for first, last in pairs for number in range(first, last + 1)}
    kept = [number for number in range(200) if number not in skipped]
    assert line.sample_numbers(np.arange(len(kept))).tolist() == kept
    assert line.positions(np.array(kept)).tolist() == list(range(len(kept)))
    before = [sum(1 for other in kept if other < number) for number in range(200)]
    assert line.positions(np.arange(200)).tolist() == before
    assert [line.end_of(count) for count in range(len(kept) + 1)] == [0, *(number + 1 for number in kept)]


def test_ranges_are_merged():
    assert skip_line([(5, 9), (0, 1), (7, 12), (13, 14), (16, 16)]).ranges == [(0, 1), (5, 14), (16, 16)]


def test_skipping_passes_over_samples_and_leaves_the_others_where_they_were():
    changes = {"stages": [(40, (1, 4))]}
    whole = rows(order((90, 30), 1, 1, **changes).locate(np.arange(300)))
    skipping = order((90, 30), 1, 1, skips=[(10, 59), (100, 100)], **changes)
    assert rows(skipping.locate(np.arange(249))) == whole[:10] + whole[60:100] + whole[101:]
    assert skipping.sample_numbers(np.array([9, 10, 49, 50])).tolist() == [9, 60, 99, 101]


def test_a_range_that_ends_before_it_begins_is_refused():
    with pytest.raises(ConfigError, match="first is 5, last is 4"):
        parse_config(SampleRange, {"first": 5, "last": 4}, where="x")
