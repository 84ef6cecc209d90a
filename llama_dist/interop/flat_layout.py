"""Where a parameter lies in the flat partitions of DeepSpeed's ranks. Pure arithmetic over tensors that are not copied.

Written against DeepSpeed 0.19.8: utils/zero_to_fp32.py, runtime/zero/stage_1_and_2.py and stage3.py,
runtime/bf16_optimizer.py. Legend: R ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of parameters by their names, in the order in which they are laid out."""


class MisfitError(ValueError):
    """The partitions are not of the size that the shapes need."""


class FlatVector:
    """Tensors of one dimension, seen as one, end to end."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tuple(tensors)
        self.sizes = tuple(tensor.numel() for tensor in tensors)

    @property
    def num_elements(self) -> int:
        """Elements of all."""
        return sum(self.sizes)

    def copy_into(self, target: torch.Tensor, start: int) -> None:
        """Fill `target` [n] from element `start` on, in its own type."""
        done, first = 0, 0
        for tensor, size in zip(self._tensors, self.sizes, strict=True):
            begin = max(start + done - first, 0)
            count = min(size - begin, target.numel() - done)
            if count > 0:
                target[done : done + count] = tensor[begin : begin + count]
                done += count
            first += size
        assert done == target.numel(), f"{start} + {target.numel()} is outside {self.num_elements} elements"


class Slice(NamedTuple):
    """`length` elements of a vector from `start` on."""

    vector: FlatVector
    start: int
    length: int


@dataclass(frozen=True)
class Laid:
    """One parameter: its shape, and for each state the slices that make up its flattened form, in order."""

    shape: tuple[int, ...]
    slices: dict[str, list[Slice]]

    def read(self, state: str) -> torch.Tensor:
        """The whole state in fp32, in the parameter's shape."""
        flat = torch.empty(num_elements(self.shape))
        done = 0
        for one in self.slices[state]:
            one.vector.copy_into(flat[done : done + one.length], one.start)
            done += one.length
        return flat.view(self.shape)


def num_elements(shape: tuple[int, ...]) -> int:
    """Elements of a tensor of this shape."""
    total = 1
    for size in shape:
        total *= size
    return total


def lay_out_group(
    shapes: Shapes, paddings: Sequence[int], vectors: Mapping[str, FlatVector]
) -> Iterator[tuple[str, Laid]]:
    """ZeRO 1 and 2: the parameters of one group stand end to end, and each rank has an equal part of the whole.

    `vectors` has for each state the ranks' partitions in order. `paddings` are the elements left empty after each
    parameter (`zero_optimization.parameter_alignment`). The end is padded to a multiple of 2 R; weights are saved
    without that padding, moments and those of BF16_Optimizer with it. Raises MisfitError.
    """
    places, end = [], 0
    for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
        places.append((name, shape, end))
        end += num_elements(shape) + padding
    for state, vector in vectors.items():
        _check_partitions(state, vector.sizes, end)
    for name, shape, start in places:
        length = num_elements(shape)
        yield name, Laid(shape, {state: [Slice(vector, start, length)] for state, vector in vectors.items()})


def _check_partitions(state: str, sizes: Sequence[int], needed: int) -> None:
    largest, num_ranks = max(sizes), len(sizes)
    for rank, size in enumerate(sizes):
        unpadded = min(max(needed - rank * largest, 0), largest)
        if size not in (largest, unpadded):
            raise MisfitError(f"rank {rank} has {size} elements of {state}, needs {unpadded}")
    if not needed <= sum(sizes) < needed + 2 * num_ranks:
        raise MisfitError(f"{num_ranks} ranks have {sum(sizes)} elements of {state} together, the shapes need {needed}")


def lay_out_cuts(shapes: Shapes, vectors: Mapping[str, Sequence[FlatVector]]) -> Iterator[tuple[str, Laid]]:
    """ZeRO 3: each parameter is cut into R equal parts, the last one padded; a rank's parts stand end to end.

    `vectors` has for each state one vector a rank: its sub-groups in order. Raises MisfitError.
    """
    num_ranks = len(next(iter(vectors.values())))
    cuts = {name: -(-num_elements(shape) // num_ranks) for name, shape in shapes.items()}
    for state, of_ranks in vectors.items():
        for rank, vector in enumerate(of_ranks):
            if vector.num_elements != sum(cuts.values()):
                raise MisfitError(
                    f"rank {rank} has {vector.num_elements} elements of {state}, the shapes need {sum(cuts.values())}"
                )
    start = 0
    for name, shape in shapes.items():
        cut, whole = cuts[name], num_elements(shape)
        lengths = [min(cut, max(whole - rank * cut, 0)) for rank in range(num_ranks)]
        yield (
            name,
            Laid(
                shape,
                {
                    state: [Slice(vector, start, length) for vector, length in zip(of_ranks, lengths, strict=True)]
                    for state, of_ranks in vectors.items()
                },
            ),
        )
        start += cut
