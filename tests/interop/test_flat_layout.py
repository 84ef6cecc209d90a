"""Parameters that ranks of DeepSpeed hold in parts come together again, whatever their shapes and how many ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_dist.interop.flat_layout import FlatVector, MisfitError, lay_out_cuts, lay_out_group


@settings(max_examples=60, deadline=None)
@given(
    num_ranks=st.integers(1, 5),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple), min_size=1, max_size=6),
    alignment=st.sampled_from([1, 4]),
    is_padded=st.booleans(),
)
def test_any_group_that_zero_1_and_2_cut_comes_together_again(num_ranks, shapes, alignment, is_padded):
    """The cut is DeepSpeed's: parameters end to end, each but the last aligned; 2 R at the end; equal partitions."""
    truth, flat, paddings = numbered(shapes), [], []
    for number, tensor in enumerate(truth.values()):
        padding = -(sum(map(len, flat)) + tensor.numel()) % alignment if number < len(truth) - 1 else 0
        flat.append(torch.cat([tensor.flatten(), torch.zeros(padding)]))
        paddings.append(padding)
    whole = torch.cat(flat)
    end = torch.zeros(-len(whole) % (2 * num_ranks))
    partitions = torch.cat([whole, end]).chunk(num_ranks)
    if not is_padded:
        partitions = [part[: max(len(whole) - rank * len(part), 0)] for rank, part in enumerate(partitions)]
    laid = dict(lay_out_group(shapes_of(truth), paddings, {"fp32": FlatVector(partitions)}))
    assert all(torch.equal(laid[name].read("fp32"), tensor) for name, tensor in truth.items())
    with pytest.raises(MisfitError):
        list(
            lay_out_group(
                shapes_of(truth) | {"more": (2 * num_ranks,)}, [*paddings, 0], {"fp32": FlatVector(partitions)}
            )
        )


@settings(max_examples=60, deadline=None)
@given(
    num_ranks=st.integers(1, 5),
    shapes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple), min_size=1, max_size=6),
    split=st.integers(0, 6),
)
def test_any_parameters_that_zero_3_cuts_come_together_again(num_ranks, shapes, split):
    """The cut is DeepSpeed's: each parameter into R equal parts, the last padded; sub-groups in order."""
    truth = numbered(shapes)
    cuts = [cut_evenly(tensor.flatten(), num_ranks) for tensor in truth.values()]
    ranks = [
        FlatVector([torch.cat([torch.zeros(0), *(cut[rank] for cut in part)]) for part in (cuts[:split], cuts[split:])])
        for rank in range(num_ranks)
    ]
    laid = dict(lay_out_cuts(shapes_of(truth), {"fp32": ranks}))
    assert all(torch.equal(laid[name].read("fp32"), tensor) for name, tensor in truth.items())
    with pytest.raises(MisfitError):
        list(lay_out_cuts(shapes_of(truth) | {"more": (1,)}, {"fp32": ranks}))


def numbered(shapes):
    """Tensors of these shapes in which no two elements are alike, and none is 0."""
    tensors, first = {}, 1.0
    for index, shape in enumerate(shapes):
        count = torch.Size(shape).numel()
        tensors[f"p{index}"] = torch.arange(first, first + count).view(shape)
        first += count
    return tensors


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def cut_evenly(flat, num_ranks):
    return torch.cat([flat, torch.zeros(-len(flat) % num_ranks)]).chunk(num_ranks)
