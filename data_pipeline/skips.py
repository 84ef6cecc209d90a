"""Samples that are passed over: from the count of samples taken to the sample number, in closed form.

Knows nothing of what a sample holds.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from data_pipeline.config import SampleRange

Int64 = npt.NDArray[np.int64]


class SkipLine:
    """The sample numbers that are left when `ranges` are taken out, by their place."""

    def __init__(self, ranges: Iterable[SampleRange]) -> None:
        self.ranges = _merge(ranges)
        """First and last sample of each range, both included; rising, and no two touch."""

        firsts = np.array([first for first, _ in self.ranges], dtype=np.int64)
        lasts = np.array([last for _, last in self.ranges], dtype=np.int64)
        # Samples skipped up to and including each range, and samples taken before it.
        self._skipped = np.concatenate(([0], np.cumsum(lasts - firsts + 1))).astype(np.int64)
        self._taken = firsts - self._skipped[:-1]

    def sample_numbers(self, positions: Int64) -> Int64:
        """Return the number of the sample that is taken after int64 [N] `positions` others."""
        if not self.ranges:
            return positions
        return np.asarray(positions + self._skipped[np.searchsorted(self._taken, positions, side="right")])

    def positions(self, sample_numbers: Int64) -> Int64:
        """Count the samples that are taken before each of int64 [N] sample numbers, which may be skipped ones."""
        if not self.ranges:
            return sample_numbers
        firsts = self._taken + self._skipped[:-1]
        begun = np.searchsorted(firsts, sample_numbers, side="right")
        # Inside a range, as many were taken as before its first sample.
        inside = np.append(self._taken, np.iinfo(np.int64).max)[np.maximum(begun - 1, 0)]
        after = sample_numbers - self._skipped[begun]
        return np.where(begun > 0, np.maximum(after, inside), sample_numbers)

    def end_of(self, consumed_samples: int) -> int:
        """Return the number after the last of the first `consumed_samples` that are taken: where the past ends."""
        if not consumed_samples:
            return 0
        return int(self.sample_numbers(np.array([consumed_samples - 1], dtype=np.int64))[0]) + 1


def _merge(ranges: Iterable[SampleRange]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted((one.first, one.last) for one in ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
