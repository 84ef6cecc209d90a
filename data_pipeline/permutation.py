"""Seeded permutations of ranges of any size, computed value by value: no table, no state.

Knows nothing of samples; `mixture.py` and `shuffle.py` permute slots, groups and sequences with it.
"""

import hashlib

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


def permute_each(size: int, *, seed: int, tags: list[str]) -> Int64:
    """Permute 0, 1, ..., size - 1 once for each of N tags: int64 [N, size]. `size` is a power of two, at least 16."""
    assert size >= 1 << _FEWEST_BITS
    assert size & (size - 1) == 0, "only a power of two needs no walk along cycles"
    keys = np.stack([_round_keys(seed, tag) for tag in tags], axis=1)[:, :, np.newaxis]
    images = np.empty((len(tags), size), dtype=np.int64)
    for start in range(0, size, _VALUES_AT_A_TIME):
        values = np.arange(start, min(start + _VALUES_AT_A_TIME, size), dtype=np.uint64)
        images[:, start : start + len(values)] = _feistel(values, (size - 1).bit_length(), keys)
    return images


def _round_keys(seed: int, tag: str) -> UInt64:
    digest = hashlib.blake2b(f"{seed}/{tag}".encode(), digest_size=16 * _NUM_DOUBLE_ROUNDS).digest()
    # Little-endian by name: the order is the same on every machine.
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def _feistel(values: UInt64, bits: int, keys: UInt64) -> UInt64:
    """Encipher `values` of any shape; the first axis of `keys` is the round, the others broadcast against `values`."""
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
