"""Which sequence is sample number g: a pure function of the seed, the sources' sizes and their weights.

Holds no state and no index: any position costs the same, and every world size sees one order.
Reads no file; `stream.py` turns the answer into tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

ORDER_VERSION = 1
"""Raised with any change that moves a sample: a resume across versions is refused."""

# Samples of one mixture block: short, so that even a short run sees the weights; long, so that few blocks
# are looked at per batch.
_SMALLEST_BLOCK_SAMPLES = 1024
# Three double rounds make the permutation pass a chi-square test; two do not at small sizes.
_NUM_DOUBLE_ROUNDS = 3
# Under four bits the two halves of the network are too small to mix.
_FEWEST_BITS = 4
# Odd constants of the MurmurHash3 finaliser (public domain, Austin Appleby).
_MULTIPLIER_1 = np.uint64(0xFF51AFD7ED558CCD)
_MULTIPLIER_2 = np.uint64(0xC4CEB9FE1A85EC53)


@dataclass(frozen=True)
class Locations:
    """Where N samples lie: the source, the pass over it, and the sequence in it, each int64 [N]."""

    sources: Int64
    epochs: Int64
    sequences: Int64


class Order(Protocol):
    """Anything that says where sample number g lies."""

    def locate(self, sample_numbers: Int64) -> Locations:
        """Answer for int64 [N] sample numbers, all at least 0."""
        ...


def permute(indices: Int64, size: int, *, seed: int, tag: str) -> Int64:
    """Permute `indices` int64 [N], each in [0, size): a bijection of [0, size) picked by `seed` and `tag`.

    A Feistel network over the least power of two, walked along its cycles until the value is inside
    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
    """
    if size == 1:
        return np.zeros_like(indices)
    bits = max(_FEWEST_BITS, (size - 1).bit_length())
    keys = _round_keys(seed, tag)
    limit = np.uint64(size)
    values = _feistel(indices.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(values >= limit)
    while outside.size:
        walked = _feistel(values[outside], bits, keys)
        values[outside] = walked
        outside = outside[walked >= limit]
    return values.astype(np.int64)


def _round_keys(seed: int, tag: str) -> UInt64:
    digest = hashlib.blake2b(f"{seed}/{tag}".encode(), digest_size=16 * _NUM_DOUBLE_ROUNDS).digest()
    # Little-endian by name: the order is the same on every machine.
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def _feistel(values: UInt64, bits: int, keys: UInt64) -> UInt64:
    low_bits = np.uint64(bits // 2)
    low_shift, high_shift = np.uint64(64) - low_bits, np.uint64(64 - (bits - bits // 2))
    high = values >> low_bits
    low = values & ((np.uint64(1) << low_bits) - np.uint64(1))
    for round_number in range(_NUM_DOUBLE_ROUNDS):
        high = high ^ (_mix(low + keys[2 * round_number]) >> high_shift)
        low = low ^ (_mix(high + keys[2 * round_number + 1]) >> low_shift)
    return (high << low_bits) | low


def _mix(values: UInt64) -> UInt64:
    values = values * _MULTIPLIER_1
    values ^= values >> np.uint64(32)
    values *= _MULTIPLIER_2
    return values


@dataclass(frozen=True)
class Mixture:
    """How the samples are shared out among sources, block by block, to the weights exactly as written."""

    shares: tuple[int, ...]
    """Least whole numbers in the ratio of the weights."""

    block_samples: int
    """Samples of one block. So long that each source has at least one sample in it, which keeps counts rising."""

    @staticmethod
    def from_weights(weights: Sequence[float], *, smallest_block_samples: int = _SMALLEST_BLOCK_SAMPLES) -> "Mixture":
        """Take each weight as the decimal that was written: 0.3 is three tenths."""
        fractions = [Fraction(str(weight)) for weight in weights]
        unit = lcm(*(fraction.denominator for fraction in fractions))
        whole = [int(fraction * unit) for fraction in fractions]
        shares = tuple(share // gcd(*whole) for share in whole)
        block = smallest_block_samples
        while block * min(shares) < sum(shares):
            block *= 2
        return Mixture(shares, block)

    def drawn_before(self, num_samples: int) -> Int64:
        """Count how many of the first `num_samples` each source gives, by largest remainder: int64 [sources].

        Always within one of the exact share, and the sum is `num_samples`.
        """
        total = sum(self.shares)
        counts = [num_samples * share // total for share in self.shares]
        remainders = [num_samples * share % total for share in self.shares]
        by_remainder = sorted(range(len(counts)), key=lambda source: (-remainders[source], source))
        for source in by_remainder[: num_samples - sum(counts)]:
            counts[source] += 1
        return np.array(counts, dtype=np.int64)


@dataclass(frozen=True)
class ShuffledOrder:
    """The endless order of training: weights by block, each source permuted anew per epoch."""

    num_sequences: tuple[int, ...]
    """Sequences of each source."""

    mixture: Mixture
    seed: int

    def locate(self, sample_numbers: Int64) -> Locations:
        """Answer for int64 [N] sample numbers, all at least 0."""
        sources, ordinals = self._draw(sample_numbers)
        sizes = np.array(self.num_sequences, dtype=np.int64)[sources]
        epochs, places = np.divmod(ordinals, sizes)
        sequences = np.empty_like(places)
        for source in np.unique(sources):
            for epoch in np.unique(epochs[sources == source]):
                chosen = (sources == source) & (epochs == epoch)
                tag = f"source {source} epoch {epoch}"
                sequences[chosen] = permute(places[chosen], self.num_sequences[source], seed=self.seed, tag=tag)
        return Locations(sources, epochs, sequences)

    def _draw(self, sample_numbers: Int64) -> tuple[Int64, Int64]:
        """Answer the source of each sample, and how many samples of that source come before it."""
        if len(self.num_sequences) == 1:
            # One source needs no blocks, and without them an epoch is a plain range of sample numbers.
            return np.zeros_like(sample_numbers), sample_numbers
        return _draw_by_block(self.mixture, sample_numbers, slot_seed=self.seed)


@dataclass(frozen=True)
class FixedOrder:
    """The order of held-out data: each sequence once, no seed; several sources are mixed by their sizes.

    So the first sequences stand for all sources, and one source is read from its start.
    """

    num_sequences: tuple[int, ...]
    """Sequences of each source; one of them may have none."""

    def locate(self, sample_numbers: Int64) -> Locations:
        """Answer for int64 [N] sample numbers, each in [0, sum of num_sequences)."""
        filled = [source for source, size in enumerate(self.num_sequences) if size]
        if len(filled) == 1:
            zeros = np.zeros_like(sample_numbers)
            return Locations(zeros + filled[0], zeros, sample_numbers)
        mixture = Mixture.from_weights([self.num_sequences[source] for source in filled], smallest_block_samples=64)
        chosen, sequences = _draw_by_block(mixture, sample_numbers, slot_seed=0, num_samples=sum(self.num_sequences))
        return Locations(np.array(filled, dtype=np.int64)[chosen], np.zeros_like(sequences), sequences)


def _draw_by_block(
    mixture: Mixture, sample_numbers: Int64, *, slot_seed: int, num_samples: int | None = None
) -> tuple[Int64, Int64]:
    """Answer the source of each sample and its ordinal in it; the line of samples ends at `num_samples`, if given."""
    blocks, slots = np.divmod(sample_numbers, mixture.block_samples)
    sources, ordinals = np.empty_like(slots), np.empty_like(slots)
    for block in np.unique(blocks):
        inside = blocks == block
        start = int(block) * mixture.block_samples
        end = min(start + mixture.block_samples, num_samples or start + mixture.block_samples)
        before = mixture.drawn_before(start)
        ends = np.cumsum(mixture.drawn_before(end) - before)
        slot = permute(slots[inside], end - start, seed=slot_seed, tag=f"block {block}")
        source = np.searchsorted(ends, slot, side="right").astype(np.int64)
        sources[inside] = source
        ordinals[inside] = before[source] + slot - np.concatenate(([0], ends[:-1]))[source]
    return sources, ordinals
