"""The memory that a batch is gathered into, and where its documents' bounds are written down. Reads nothing."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipeline.batch import IGNORED_LABEL

Int64 = npt.NDArray[np.int64]

# Up to here a slice for each document is faster than numpy's repeat over the row.
_MOST_SLICED_DOCUMENTS = 12


class RowBuffers:
    """B rows of T tokens, their labels and positions. What they hold at first is arbitrary."""

    def __init__(self, num_rows: int, num_tokens: int, *, has_positions: bool, masks_labels: bool) -> None:
        self.rows: Int64 = np.empty((num_rows, num_tokens + 1), dtype=np.int64)
        """int64 [B, T + 1]: the tokens, and the one after them."""
        self.tokens: Int64 = self.rows[:, :-1]
        """int64 [B, T], a view."""
        self.masks_labels = masks_labels
        """Whether `labels` have memory of their own; else they are a view of the tokens one ahead."""
        self.labels: Int64 = np.empty((num_rows, num_tokens), dtype=np.int64) if masks_labels else self.rows[:, 1:]
        """int64 [B, T]"""
        self.positions: Int64 | None = np.empty((num_rows, num_tokens), dtype=np.int64) if has_positions else None
        """int64 [B, T]"""
        self._ramp = np.arange(num_tokens, dtype=np.int64)

    @property
    def wants_documents(self) -> bool:
        """Whether the documents' bounds must be told to `begin_documents`."""
        return self.masks_labels or self.positions is not None

    def begin_documents(self, row: int, starts: Sequence[int]) -> None:
        """Begin documents at rising places `starts`, each in 1..T, of a row whose tokens are there.

        The row's first place begins one without being named. The token before each start gets no label.
        """
        if self.positions is not None:
            restart_positions(self.positions[row], starts, self._ramp)
        if self.masks_labels:
            labels = self.labels[row]
            labels[:] = self.rows[row, 1:]
            for start in starts if len(starts) <= _MOST_SLICED_DOCUMENTS else ():
                labels[start - 1] = IGNORED_LABEL
            if len(starts) > _MOST_SLICED_DOCUMENTS:
                labels[np.asarray(starts) - 1] = IGNORED_LABEL


def restart_positions(row: Int64, starts: Sequence[int], ramp: Int64) -> None:
    """Count `row`, int64 [T], up from 0, and again from 0 at each of the rising `starts`; `ramp` is 0..T-1.

    A start at T or beyond changes nothing.
    """
    length = len(row)
    if len(starts) > _MOST_SLICED_DOCUMENTS:
        bounds = np.minimum(np.array([0, *starts, length], dtype=np.int64), length)
        np.subtract(ramp, np.repeat(bounds[:-1], np.diff(bounds)), out=row)
        return
    first = 0
    for start in starts:
        if start >= length:
            break
        row[first:start] = ramp[: start - first]
        first = start
    row[first:] = ramp[: length - first]
