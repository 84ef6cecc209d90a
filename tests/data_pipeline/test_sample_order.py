"""The order is arithmetic: exact in its shares, whole in its epochs, the same however it is asked for."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_cases import config, order, rows, shape

from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture, MixtureLine
from data_pipeline.order import FixedOrder
from data_pipeline.training_order import TrainingOrder

seeds = st.integers(0, 2**63 - 1)
weights = st.lists(st.floats(0.001, 1000, allow_nan=False), min_size=2, max_size=6)


@given(weights, st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_mixture_counts_rise_sum_up_and_stay_within_one_of_the_exact_share(weights, block):
    mixture = Mixture.from_weights(weights)
    start = block * mixture.block_samples
    before, after = mixture.drawn_before(start), mixture.drawn_before(start + mixture.block_samples)
    assert before.sum() == start
    assert (after >= before).all()
    for count, share in zip(before.tolist(), mixture.shares, strict=True):
        # Exact in whole numbers: |count - start * share / total| < 1.
        assert abs(count * sum(mixture.shares) - start * share) < sum(mixture.shares)


def test_mixture_shares_are_exact_over_each_period():
    mixture = Mixture.from_weights([0.7, 0.2, 0.1])
    assert mixture.shares == (7, 2, 1)
    assert mixture.drawn_before(10 * mixture.block_samples).tolist() == [7 * 1024, 2 * 1024, 1024]


@pytest.mark.parametrize("weights", [(3, 1.5, 0.01), (1, 0, 2), (5,), (1, 0.0005)])
def test_ordinals_of_each_source_rise_by_one_along_the_line_and_counts_agree_at_every_place(weights):
    line = MixtureLine(Mixture.from_weights(weights), seed=5, name="stage at 0")
    block = line.mixture.block_samples
    for start in (0, 7 * block - 50, 1_000_003 * block + 300):
        sources, ordinals = line.draw(np.arange(start, start + 400))
        for source in range(len(weights)):
            own = ordinals[sources == source]
            assert np.array_equal(own, line.drawn_before(start)[source] + np.arange(len(own)))
            assert line.drawn_before(start + 400)[source] == line.drawn_before(start)[source] + len(own)
        assert line.drawn_before(start).sum() == start


def test_each_block_draws_exactly_its_counts():
    line = MixtureLine(Mixture.from_weights([3, 1.5, 0.01]), seed=5, name="x")
    block = line.mixture.block_samples
    for number in (0, 1, 7, 1_000_003):
        drawn = np.bincount(line.draw(np.arange(number * block, (number + 1) * block))[0], minlength=3)
        needed = line.mixture.drawn_before((number + 1) * block) - line.mixture.drawn_before(number * block)
        assert drawn.tolist() == needed.tolist()


def test_slots_are_mixed_evenly_inside_the_blocks():
    """Chi-square of a source's samples over 32 parts of the block, 200 blocks, against 5 standard deviations."""
    line = MixtureLine(Mixture.from_weights([3, 1]), seed=1, name="x")
    sources, _ = line.draw(np.arange(200 * 1024))
    counts = (sources.reshape(200, 32, 32) == 1).sum(axis=(0, 2))
    expected = 200 * 32 / 4
    # Hypergeometric: less spread than the binomial that the chi-square stands for.
    assert float(((counts - expected) ** 2 / expected).sum()) < 31 + 5 * 62**0.5


def test_a_tiny_weight_gets_longer_blocks_and_still_its_share():
    mixture = Mixture.from_weights([1, 1e-6])
    assert mixture.block_samples == 2**20
    assert mixture.drawn_before(1_000_001 * 3).tolist() == [3_000_000, 3]


def test_a_share_below_one_in_a_million_is_refused_with_its_place():
    with pytest.raises(
        DataError, match=r"data\.stages\.0: s1 gets one sample in 10000001, the least is one in 1048576"
    ):
        order((9, 9), 1, 1, stages=[(50, (1, 1e-7))])


@given(st.integers(1, 500), seeds)
@settings(max_examples=50, deadline=None)
def test_an_epoch_of_one_source_contains_each_sample_once(size, seed):
    one = order((size,), 1.0, seed=seed)
    for epoch in (0, 1, 5):
        located = one.locate(np.arange(epoch * size, (epoch + 1) * size))
        assert np.array_equal(np.sort(located.sequences), np.arange(size))
        assert (located.epochs == epoch).all()


def test_epochs_and_seeds_are_shuffled_differently():
    first, second, other = (
        order((500,), 1.0, seed=seed).locate(np.arange(start, start + 500)).sequences.tolist()
        for seed, start in ((0, 0), (0, 500), (1, 0))
    )
    assert first != second
    assert first != other


def assert_epochs_are_whole(found: list[tuple[int, int, int]], sizes) -> None:
    """No sample occurs twice; each source has whole epochs and a part of the last one."""
    assert max(Counter(found).values()) == 1
    for source, size in enumerate(sizes):
        epochs = Counter(epoch for other, epoch, _ in found if other == source)
        for epoch in range(max(epochs, default=0)):
            assert epochs[epoch] == size, f"source {source}, epoch {epoch}"


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_each_epoch_of_each_mixed_source_contains_each_sample_once(seed):
    found = rows(order((130, 41), 2, 1, seed=seed).locate(np.arange(4000)))
    assert_epochs_are_whole(found, (130, 41))


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_sample_does_not_depend_on_what_else_is_asked(positions, is_windowed):
    changes = {"stages": [(700, (1, 3)), (2100, (0, 1))], "skips": [(30, 900)]}
    if is_windowed:
        changes["shuffle_window_bytes"] = 400
    shapes = [shape(40, 7, 90), shape(11, 60)]
    whole = rows(TrainingOrder(config(2, 1, **changes), shapes).locate(np.arange(5001)))
    some = rows(TrainingOrder(config(2, 1, **changes), shapes).locate(np.array(positions)))
    assert some == [whole[position] for position in positions]


stage_lists = st.lists(
    st.tuples(st.integers(1, 3500), st.lists(st.sampled_from([0, 1, 2.5, 7]), min_size=3, max_size=3).filter(any)),
    max_size=4,
    unique_by=lambda stage: stage[0],
).map(sorted)


@given(stage_lists, st.tuples(*[st.integers(1, 300)] * 3), seeds)
@settings(max_examples=40, deadline=None)
def test_stages_neither_repeat_nor_lose_a_sample_and_keep_their_shares(stages, sizes, seed):
    staged = order(sizes, 1, 2, 1, stages=stages, seed=seed)
    found = rows(staged.locate(np.arange(5000)))
    assert_epochs_are_whole(found, sizes)
    starts = [first for first, _ in stages]
    for first, last, weights in zip([0, *starts], [*starts, 5000], [(1, 2, 1), *(w for _, w in stages)], strict=True):
        # Whole blocks from the stage's start on: each source is within one sample of its share.
        num_samples = (last - first) // 1024 * 1024
        drawn = Counter(source for source, _, _ in found[first : first + num_samples])
        for source, weight in enumerate(weights):
            assert abs(drawn[source] - num_samples * weight / sum(weights)) < 1
        # And none is drawn from a source that is not named, in a cut block either.
        assert {source for source, _, _ in found[first:last]} <= {source for source in range(3) if weights[source]}
    assert staged.line.drawn_before(5000).tolist() == [sum(1 for row in found if row[0] == one) for one in range(3)]


def test_a_stage_starts_at_its_tokens_rounded_up_to_whole_sequences():
    base = config(1, 0, stages=[(10, (0, 1))])
    for tokens, first in ((73, 10), (80, 10), (81, 11)):
        stages = [base.stages[0].model_copy(update={"starts_at_tokens": tokens})]
        staged = TrainingOrder(base.model_copy(update={"stages": stages}), [shape(50), shape(50)])
        assert staged.locate(np.arange(20)).sources.tolist() == [0] * first + [1] * (20 - first)


def test_weights_in_epochs_read_every_source_as_often_as_its_weight():
    found = order((512, 1024, 32), 1, 0.25, 8, weight_unit="epochs").locate(np.arange(1024))
    assert np.bincount(found.sources).tolist() == [512, 256, 256]
    assert [found.epochs[found.sources == source].max() for source in range(3)] == [0, 0, 7]


def test_a_source_without_a_sequence_is_refused_only_where_a_stage_draws_from_it():
    order((50, 0), 1, 0).locate(np.arange(5))
    with pytest.raises(DataError, match=r"data\.sources\.1 \(s1\): holds no whole sequence.*the first stage"):
        order((50, 0), 1, 0.1)
    with pytest.raises(DataError, match=r"holds no whole sequence of 8 tokens, and data\.stages\.1 draws from it"):
        order((50, 0), 1, 0, stages=[(5, (1, 0)), (9, (1, 1))], weight_unit="epochs")


def test_the_order_is_frozen():
    """A change here moves every sample of every mixed run: raise ORDER_VERSION."""
    changes = {"stages": [(4, (1, 1, 0))], "skips": [(1, 1)], "seed": 3}
    shapes = [shape(5, 9), shape(7, 30), shape(4)]
    assert rows(TrainingOrder(config(1, 1, 2, **changes), shapes).locate(np.arange(6))) == FROZEN
    windowed = TrainingOrder(config(1, 1, 2, shuffle_window_bytes=60, **changes), shapes)
    assert rows(windowed.locate(np.arange(6))) == FROZEN_WINDOWED


FROZEN = [(1, 0, 12), (2, 0, 1), (1, 0, 3), (1, 0, 21), (1, 0, 9), (1, 0, 7)]
FROZEN_WINDOWED = [(1, 0, 0), (2, 0, 1), (1, 0, 3), (1, 0, 1), (1, 0, 6), (1, 0, 5)]


@pytest.mark.parametrize("window_bytes", [None, 2**30])
def test_a_trillion_tokens_open_in_a_tenth_of_a_second_and_any_position_is_found_in_a_hundredth(window_bytes):
    # 1e12 tokens in 7,450 shards; the limits are for one core alone, so the best of a few tries is taken.
    num_tokens, length = 10**12, 2048
    each = shape(*[num_tokens // length // 3 // 2483] * 2483, group_bytes=[2**28] * 2483)
    spread = config(0.6, 0.3, 0.1, stages=[(10**8, (1, 1, 1))], skips=[(7, 90)], shuffle_window_bytes=window_bytes)
    spread = spread.model_copy(update={"sequence_length_tokens": length})
    opening, locating = [], []
    for _ in range(3):
        start = time.perf_counter()
        huge = TrainingOrder(spread, [each] * 3)
        opening.append(time.perf_counter() - start)
    for position in (0, 5 * 10**8 - 8192, 5 * 10**8, 10**12 // length - 8192):
        tries = []
        for _ in range(5):
            start = time.perf_counter()
            located = huge.locate(np.arange(position, position + 8192))
            tries.append(time.perf_counter() - start)
        locating.append(min(tries))
        assert located.sequences.max() < each.num_sequences
    assert min(opening) < 0.1
    # Slack of 4 for a busy machine: 2 to 8 ms were measured.
    assert max(locating) < 0.04


@pytest.mark.parametrize("num_sequences", [(7,), (40, 3), (0, 12, 5), (100, 1, 33), (200, 300)])
def test_held_out_order_contains_each_sequence_once(num_sequences):
    held_out = FixedOrder(num_sequences)
    located = held_out.locate(np.arange(sum(num_sequences)))
    pairs = set(zip(located.sources.tolist(), located.sequences.tolist(), strict=True))
    assert pairs == {(source, index) for source, size in enumerate(num_sequences) for index in range(size)}


@pytest.mark.parametrize("num_sequences", [(4000, 1, 4000), (900, 300)])
def test_the_first_held_out_sequences_stand_for_all_sources(num_sequences):
    first = FixedOrder(num_sequences).locate(np.arange(64)).sources
    for source, size in enumerate(num_sequences):
        # A hypergeometric count has at most this deviation; 4 of them.
        needed = 64 * size / sum(num_sequences)
        assert abs(np.count_nonzero(first == source) - needed) <= 4 * needed**0.5 + 1


def test_one_held_out_source_is_read_from_its_start():
    assert FixedOrder((9,)).locate(np.arange(9)).sequences.tolist() == list(range(9))
