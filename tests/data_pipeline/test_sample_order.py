"""The order is arithmetic: bijective, exact in its shares, the same however it is asked for."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order import FixedOrder, Mixture, ShuffledOrder, permute

sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**63 - 1)
weights = st.lists(st.floats(0.001, 1000, allow_nan=False), min_size=2, max_size=6)


@given(sizes, seeds, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_permutation_is_a_bijection_for_any_size(size, seed, epoch):
    image = permute(np.arange(size), size, seed=seed, tag=f"epoch {epoch}")
    assert np.array_equal(np.sort(image), np.arange(size))


@given(st.integers(2, 2**48), seeds, st.data())
@settings(max_examples=50, deadline=None)
def test_permutation_of_a_huge_range_stays_inside_and_apart(size, seed, data):
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=50))))
    image = permute(chosen, size, seed=seed, tag="t")
    assert image.min() >= 0
    assert image.max() < size
    assert len(np.unique(image)) == len(chosen)


def test_permutation_value_does_not_depend_on_what_else_is_asked():
    whole = permute(np.arange(1000), 1000, seed=3, tag="t")
    one_by_one = [int(permute(np.array([index]), 1000, seed=3, tag="t")[0]) for index in range(1000)]
    assert whole.tolist() == one_by_one


def test_permutation_is_frozen():
    """A change here moves every sample of every run: raise ORDER_VERSION."""
    assert permute(np.arange(10), 10, seed=0, tag="source 0 epoch 0").tolist() == [1, 6, 4, 3, 9, 0, 7, 5, 8, 2]
    assert permute(np.arange(3), 1_000_003, seed=7, tag="x").tolist() == [991103, 377997, 6178]


def test_small_permutations_are_all_reached_about_evenly():
    counts = Counter(tuple(permute(np.arange(3), 3, seed=seed, tag="t").tolist()) for seed in range(3000))
    assert len(counts) == 6
    # 500 expected; 5 standard deviations of a binomial(3000, 1/6) are 102.
    assert all(abs(count - 500) < 102 for count in counts.values())


def test_permutation_spreads_every_place_evenly():
    """Chi-square of (place, value) in 16 x 16 bins over 200 seeds, against 5 standard deviations."""
    size, bins = 1000, 16
    table = np.zeros((bins, bins))
    for seed in range(200):
        image = permute(np.arange(size), size, seed=seed, tag="t")
        np.add.at(table, (np.arange(size) * bins // size, image * bins // size), 1)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    degrees = (bins - 1) ** 2
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5


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


def test_mixture_draws_in_each_block_exactly_its_counts():
    order = ShuffledOrder((5000, 70, 900), Mixture.from_weights([3, 1.5, 0.01]), seed=5)
    block = order.mixture.block_samples
    for number in (0, 1, 7, 1_000_003):
        numbers = np.arange(number * block, (number + 1) * block)
        drawn = np.bincount(order.locate(numbers).sources, minlength=3)
        needed = order.mixture.drawn_before((number + 1) * block) - order.mixture.drawn_before(number * block)
        assert drawn.tolist() == needed.tolist()


def test_a_tiny_weight_gets_longer_blocks_and_still_its_share():
    mixture = Mixture.from_weights([1, 1e-6])
    assert mixture.block_samples >= 1_000_001
    assert mixture.drawn_before(1_000_001 * 3).tolist() == [3_000_000, 3]


@given(st.integers(1, 500), seeds)
@settings(max_examples=50, deadline=None)
def test_an_epoch_of_one_source_contains_each_sample_once(size, seed):
    order = ShuffledOrder((size,), Mixture.from_weights([1.0]), seed)
    for epoch in (0, 1, 5):
        located = order.locate(np.arange(epoch * size, (epoch + 1) * size))
        assert np.array_equal(np.sort(located.sequences), np.arange(size))
        assert (located.epochs == epoch).all()


def test_epochs_are_shuffled_differently():
    order = ShuffledOrder((500,), Mixture.from_weights([1.0]), seed=0)
    first, second = (order.locate(np.arange(start, start + 500)).sequences for start in (0, 500))
    assert not np.array_equal(first, second)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_each_epoch_of_each_mixed_source_contains_each_sample_once(seed):
    order = ShuffledOrder((130, 41), Mixture.from_weights([2, 1]), seed)
    located = order.locate(np.arange(8 * order.mixture.block_samples))
    seen = Counter(zip(located.sources.tolist(), located.epochs.tolist(), located.sequences.tolist(), strict=True))
    assert max(seen.values()) == 1
    # All but the last epochs, which the end of the range cuts, are whole.
    for source, size in ((0, 130), (1, 41)):
        last = max(epoch for found, epoch, _ in seen if found == source)
        whole = Counter(epoch for found, epoch, _ in seen if found == source and epoch < last - 1)
        assert whole
        assert set(whole.values()) == {size}


@pytest.mark.parametrize("num_sequences", [(7,), (40, 3), (0, 12, 5), (100, 1, 33), (200, 300)])
def test_held_out_order_contains_each_sequence_once(num_sequences):
    order = FixedOrder(num_sequences)
    total = sum(num_sequences)
    located = order.locate(np.arange(total))
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
