"""How samples are shared out among sources while the weights stay the same: block by block, in closed form.

Answers from where the weights begin to hold; `stages.py` joins the answers of several weights. Knows no sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

from data_pipeline.permutation import permute_each

Int64 = npt.NDArray[np.int64]

# Samples of one block: short, so that even a short run sees the weights; long, so that few blocks are looked at per
# batch. A power of two, so that its permutation needs no walk.
_SMALLEST_BLOCK_SAMPLES = 1024
# One block is laid out whole wherever a sample of it is asked for: 2**20 take 0.1 s and 6 MiB.
LONGEST_BLOCK_SAMPLES = 2**20
# Blocks are laid out some 8,192 samples at a time, which numpy does hardly slower than 1,024.
_SAMPLES_AT_A_TIME = 8192


@dataclass(frozen=True)
class Mixture:
    """Shares of the sources, to the weights exactly as written."""

    shares: tuple[int, ...]
    """Least whole numbers in the ratio of the weights. A source with share 0 is never drawn."""

    block_samples: int
    """Samples of one block. So long that each drawn source has a sample in it, which keeps its count rising."""

    @staticmethod
    def from_weights(
        weights: Sequence[float | Fraction], *, smallest_block_samples: int = _SMALLEST_BLOCK_SAMPLES
    ) -> "Mixture":
        """Take each weight as the decimal that was written: 0.3 is three tenths. One at least is above 0."""
        fractions = [Fraction(str(weight)) for weight in weights]
        unit = lcm(*(fraction.denominator for fraction in fractions))
        whole = [int(fraction * unit) for fraction in fractions]
        shares = tuple(share // gcd(*whole) for share in whole)
        block, total = smallest_block_samples, sum(shares)
        while block * min(share for share in shares if share) < total:
            block *= 2
        return Mixture(shares, block)

    @property
    def drawn_sources(self) -> tuple[int, ...]:
        """The sources that have a share."""
        return tuple(source for source, share in enumerate(self.shares) if share)

    def drawn_before(self, num_samples: int) -> Int64:
        """Count how many of the first `num_samples` each source should give, by largest remainder: int64 [sources].

        Always within one of the exact share, and the sum is `num_samples`. True of the order at the ends of blocks.
        """
        total = sum(self.shares)
        counts = [num_samples * share // total for share in self.shares]
        remainders = [num_samples * share % total for share in self.shares]
        by_remainder = sorted(range(len(counts)), key=lambda source: (-remainders[source], source))
        for source in by_remainder[: num_samples - sum(counts)]:
            counts[source] += 1
        return np.array(counts, dtype=np.int64)


@dataclass(frozen=True)
class _Layout:
    """N blocks, laid out whole."""

    before: Int64
    """Samples of each source before each block, int64 [N, sources]."""

    sources: npt.NDArray[np.uint16]
    """Source of each slot, uint16 [N, block_samples]."""

    earlier: npt.NDArray[np.int32]
    """Slots of the same block, before each slot, with the same source: int32 [N, block_samples]."""


class MixtureLine:
    """The endless line of samples that one mixture gives: which source, and the how many-th sample of it.

    The ordinals of a source rise by one with each of its samples, so any first part of the line holds a first part of
    each source: the line may be left anywhere, in mid-block as well, and nothing is lost.
    """

    def __init__(self, mixture: Mixture, *, seed: int, name: str) -> None:
        """`name` tells the permutations of this line apart from those of other lines of the same `seed`."""
        self.mixture = mixture
        self._seed = seed
        self._name = name
        self._long_block: tuple[int, _Layout] | None = None

    def draw(self, places: Int64) -> tuple[Int64, Int64]:
        """Answer the source of each of int64 [N] places of the line, and how many samples of it come before."""
        drawn = self.mixture.drawn_sources
        if len(drawn) == 1:
            # One source needs no blocks, and without them an epoch is a plain range of samples.
            return np.full_like(places, drawn[0]), places.copy()
        block_samples = self.mixture.block_samples
        blocks, slots = np.divmod(places, block_samples)
        sources, ordinals = np.empty_like(slots), np.empty_like(slots)
        needed, rows = np.unique(blocks, return_inverse=True)
        at_a_time = max(1, _SAMPLES_AT_A_TIME // block_samples)
        for start in range(0, len(needed), at_a_time):
            inside = (rows >= start) & (rows < start + at_a_time)
            row, slot = rows[inside] - start, slots[inside]
            layout = self._lay_out(needed[start : start + at_a_time].tolist())
            source = layout.sources[row, slot].astype(np.int64)
            sources[inside] = source
            ordinals[inside] = layout.before[row, source] + layout.earlier[row, slot]
        return sources, ordinals

    def drawn_before(self, place: int) -> Int64:
        """Count the samples of each source in the first `place` of the line, exactly: int64 [sources]."""
        drawn = self.mixture.drawn_sources
        if len(drawn) == 1:
            counts = np.zeros(len(self.mixture.shares), dtype=np.int64)
            counts[drawn[0]] = place
            return counts
        block, slot = divmod(place, self.mixture.block_samples)
        if not slot:
            return self.mixture.drawn_before(place)
        layout = self._lay_out([block])
        return np.asarray(layout.before[0] + np.bincount(layout.sources[0, :slot], minlength=len(self.mixture.shares)))

    def _lay_out(self, blocks: list[int]) -> "_Layout":
        if self.mixture.block_samples <= _SAMPLES_AT_A_TIME:
            return self._compute_layout(blocks)
        # A long block comes alone, and is asked for again and again as the run passes through it.
        (block,) = blocks
        kept = self._long_block
        if kept is None or kept[0] != block:
            kept = self._long_block = (block, self._compute_layout(blocks))
        return kept[1]

    def _compute_layout(self, blocks: list[int]) -> "_Layout":
        size = self.mixture.block_samples
        before = np.stack([self.mixture.drawn_before(block * size) for block in blocks])
        after = np.stack([self.mixture.drawn_before((block + 1) * size) for block in blocks])
        slots = permute_each(size, seed=self._seed, tags=[f"{self._name} block {block}" for block in blocks])
        sources = np.empty(slots.shape, dtype=np.uint16)
        earlier = np.empty(slots.shape, dtype=np.int32)
        for row, counts in enumerate(after - before):
            sources[row] = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)[slots[row]]
            by_source = np.argsort(sources[row], kind="stable")
            earlier[row, by_source] = np.arange(size) - np.repeat(np.cumsum(counts) - counts, counts)
        return _Layout(before, sources, earlier)
