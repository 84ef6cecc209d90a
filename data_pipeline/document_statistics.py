"""Counts over the documents of a split, batch by batch: ids, lengths. Holds no document."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LengthSummary:
    """How long documents are, in tokens."""

    min: int
    median: int
    p90: int
    p99: int
    max: int
    histogram: dict[str, int]
    """Documents by length, in buckets that double: "64-127" holds lengths from 64 to 127."""


class DocumentStatistics:
    """Adds up ids and lengths. Memory grows with the vocabulary and with the number of different lengths."""

    def __init__(self, vocabulary_size: int) -> None:
        self.id_counts: Int64 = np.zeros(vocabulary_size, dtype=np.int64)
        """int64 [vocabulary]: how often each id occurs."""
        self._lengths: Counter[int] = Counter()

    def add(self, tokens: npt.NDArray[np.unsignedinteger], bounds: npt.NDArray[np.int32]) -> None:
        """Count one record batch, whose ids are inside the vocabulary."""
        self.id_counts += np.bincount(tokens, minlength=len(self.id_counts))
        lengths, counts = np.unique(np.diff(bounds), return_counts=True)
        self._lengths.update(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))

    def lengths(self) -> LengthSummary:
        """Summarise at least one document. A quantile is the smallest length that its share of all do not exceed."""
        lengths = np.array(sorted(self._lengths), dtype=np.int64)
        counts = np.array([self._lengths[length] for length in lengths.tolist()], dtype=np.int64)
        ends = np.cumsum(counts)

        def quantile(share: float) -> int:
            return int(lengths[np.searchsorted(ends, share * ends[-1])])

        buckets: Counter[int] = Counter()
        for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
            buckets[max(length, 1).bit_length() - 1] += count
        return LengthSummary(
            min=int(lengths[0]),
            median=quantile(0.5),
            p90=quantile(0.9),
            p99=quantile(0.99),
            max=int(lengths[-1]),
            histogram={f"{1 << power}-{(2 << power) - 1}": buckets[power] for power in sorted(buckets)},
        )


def entropy_nats(counts: Int64) -> float:
    """Return the entropy of the distribution that int64 [ids] `counts` make, in nats."""
    present = counts[counts > 0].astype(np.float64)
    shares = present / present.sum()
    return float(-(shares * np.log(shares)).sum())
