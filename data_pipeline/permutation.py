"""Seeded permutations of ranges of any size, computed value by value: no table, no state.

Knows nothing of samples; `mixture.py` and `shuffle.py` permute slots, groups and sequences with it.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

# Three double rounds make the permutation pass a chi-square test; two do not at small sizes.
_NUM_DOUBLE_ROUNDS = 3
# Under four bits the two halves of the network are too small to mix.
_FEWEST_BITS = 4
# Bounds the memory that a long permutation takes on its way.
_VALUES_AT_A_TIME = 2**16
# Odd constants of the MurmurHash3 finaliser (public domain, Austin Appleby).
_MULTIPLIER_1 = np.uint64(0xFF51AFD7ED558CCD)
_MULTIPLIER_2 = np.uint64(0xC4CEB9FE1A85EC53)


def permute(indices: Int64, size: int, *, seed: int, tag: str) -> Int64:
    """Permute `indices` int64 [N], each in [0, size): a bijection of [0, size) picked by `seed` and `tag`."""
    return permute_in_cells(indices, np.zeros_like(indices), [size], seed=seed, tags=[tag])


def permute_in_cells(indices: Int64, cells: Int64, sizes: Sequence[int], *, seed: int, tags: Sequence[str]) -> Int64:
    """Permute each of `indices` int64 [N] by the permutation of its cell, int64 [N]: all cells at the cost of one.

    Cell c permutes [0, sizes[c]) by `seed` and tags[c], and gives what `permute` gives. A Feistel network over the
    least power of two, walked along its cycles until the value is inside (Black and Rogaway, Ciphers with Arbitrary
    Finite Domains, 2002).
    """
    bits = [max(_FEWEST_BITS, (size - 1).bit_length()) for size in sizes]
    low_bits = np.array([number // 2 for number in bits], dtype=np.uint64)
    high_bits = np.array([number - number // 2 for number in bits], dtype=np.uint64)
    keys, limits = _round_keys(seed, tags), np.array(sizes, dtype=np.uint64)
    if len(sizes) > 1:
        low_bits, high_bits, keys, limits = low_bits[cells], high_bits[cells], keys[:, cells], limits[cells]
    values = _feistel(indices.astype(np.uint64), low_bits, high_bits, keys)
    outside = np.flatnonzero(values >= limits)
    while outside.size:
        if len(sizes) > 1:
            walked = _feistel(values[outside], low_bits[outside], high_bits[outside], keys[:, outside])
            still_outside = walked >= limits[outside]
        else:
            walked = _feistel(values[outside], low_bits, high_bits, keys)
            still_outside = walked >= limits
        values[outside] = walked
        outside = outside[still_outside]
    return values.astype(np.int64)


def permute_each(size: int, *, seed: int, tags: Sequence[str]) -> Int64:
    """Permute 0, 1, ..., size - 1 once for each of N tags: int64 [N, size]. `size` is a power of two, at least 16."""
    assert size >= 1 << _FEWEST_BITS
    assert size & (size - 1) == 0, "only a power of two needs no walk along cycles"
    bits = (size - 1).bit_length()
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    keys = _round_keys(seed, tags)[:, :, np.newaxis]
    images = np.empty((len(tags), size), dtype=np.int64)
    for start in range(0, size, _VALUES_AT_A_TIME):
        values = np.arange(start, min(start + _VALUES_AT_A_TIME, size), dtype=np.uint64)
        images[:, start : start + len(values)] = _feistel(values, low_bits, high_bits, keys)
    return images


def _round_keys(seed: int, tags: Sequence[str]) -> UInt64:
    """Return the keys of each round for each tag, uint64 [rounds, tags]."""
    size_bytes = 16 * _NUM_DOUBLE_ROUNDS
    digests = b"".join(hashlib.blake2b(f"{seed}/{tag}".encode(), digest_size=size_bytes).digest() for tag in tags)
    # Little-endian by name: the order is the same on every machine.
    return np.frombuffer(digests, dtype="<u8").reshape(len(tags), 2 * _NUM_DOUBLE_ROUNDS).T.astype(np.uint64)


def _feistel(values: UInt64, low_bits: UInt64 | np.uint64, high_bits: UInt64 | np.uint64, keys: UInt64) -> UInt64:
    """Encipher `values` of any shape; the first axis of `keys` is the round, all else broadcasts against `values`."""
    one, width = np.uint64(1), np.uint64(64)
    low_shift, high_shift = width - low_bits, width - high_bits
    high = values >> low_bits
    low = values & ((one << low_bits) - one)
    for round_number in range(_NUM_DOUBLE_ROUNDS):
        high = high ^ (_mix(low + keys[2 * round_number]) >> high_shift)
        low = low ^ (_mix(high + keys[2 * round_number + 1]) >> low_shift)
    return (high << low_bits) | low


def _mix(values: UInt64) -> UInt64:
    values = values * _MULTIPLIER_1
    values ^= values >> np.uint64(32)
    values *= _MULTIPLIER_2
    return values
