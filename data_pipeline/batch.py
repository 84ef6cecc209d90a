"""What the stream hands out: B rows of T tokens, and where the documents in them begin. Reads nothing."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

IGNORED_LABEL = -100
"""Label of a place that the loss leaves out; PyTorch's own default."""


@dataclass(frozen=True)
class Batch:
    """B samples of T tokens. Arrays may be views with a stride; those of `micro_batches` live until its next call."""

    tokens: Int64
    """int64 [B, T]"""

    labels: Int64
    """int64 [B, T]: the token one place ahead in its document line, or IGNORED_LABEL."""

    positions: Int64 | None
    """int64 [B, T]: place inside its document's part of the row, from 0; None unless documents are isolated.
    A row's first place is 0, and each 0 starts another document, which attention must not leave."""

    sample_ids: Int64
    """int64 [B]: which stored sequence each row is; a repeat over epochs has the same id."""

    epochs: Int64
    """int64 [B]: how often the row's source had been read whole before it."""

    @property
    def num_labels(self) -> int:
        """Labels that count in the loss."""
        return int(np.count_nonzero(self.labels != IGNORED_LABEL))

    def cu_seqlens(self) -> Int32:
        """Bounds of the documents in the flattened batch, int32 [documents + 1], as varlen attention takes them.

        A row's end always is a bound. Only for a batch with positions.
        """
        assert self.positions is not None, "documents are not isolated"
        starts = np.flatnonzero(self.positions.reshape(-1) == 0)
        return np.append(starts, self.positions.size).astype(np.int32)

    def max_seqlen(self) -> int:
        """Longest document part of the batch, in tokens."""
        assert self.positions is not None, "documents are not isolated"
        return int(self.positions.max()) + 1
