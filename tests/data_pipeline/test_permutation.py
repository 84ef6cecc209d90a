"""The permutation is a bijection, mixes evenly, and never changes from one release to the next."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.permutation import permute, permute_each, permute_in_cells

sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**63 - 1)


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


@given(st.lists(sizes, min_size=1, max_size=8), seeds)
@settings(max_examples=50, deadline=None)
def test_cells_together_are_permuted_as_each_alone(cell_sizes, seed):
    tags = [f"cell {number}" for number in range(len(cell_sizes))]
    cells = np.repeat(np.arange(len(cell_sizes)), cell_sizes)
    indices = np.concatenate([np.arange(size) for size in cell_sizes])
    mixed = np.random.default_rng(seed).permutation(len(cells))
    together = np.empty_like(indices)
    together[mixed] = permute_in_cells(indices[mixed], cells[mixed], cell_sizes, seed=seed, tags=tags)
    alone = [permute(np.arange(size), size, seed=seed, tag=tag) for size, tag in zip(cell_sizes, tags, strict=True)]
    assert together.tolist() == np.concatenate(alone).tolist()


@pytest.mark.parametrize("size", [16, 1024, 2**17])
def test_whole_permutations_are_those_of_permute(size):
    images = permute_each(size, seed=5, tags=["x", "y"])
    for image, tag in zip(images, ["x", "y"], strict=True):
        assert np.array_equal(image, permute(np.arange(size), size, seed=5, tag=tag))


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
