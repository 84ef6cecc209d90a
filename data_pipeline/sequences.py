"""What sequence number i of a source is, and how it is gathered: documents end to end and cut, or packs.

Knows no order: which sequence comes when is `training_order.py`'s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_pipeline.batch import IGNORED_LABEL
from data_pipeline.packing.pack_index import PackIndex
from data_pipeline.row_buffers import RowBuffers
from data_pipeline.shard_index import ShardTable
from data_pipeline.token_line import DocumentPart, TokenLine

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """Tokens of a row that follow each other in the token line."""

    start: int
    """Place of the first in the token line."""

    num_tokens: int
    """How many."""


class Sequences(Protocol):
    """One way to make sequences of T tokens from a split."""

    fingerprint: str
    """Equal data, cut into sequences in the same way, has an equal fingerprint."""

    group_sizes: Int64
    """Sequences of each group, int64 [groups], in the order of their numbers; may be 0. A group lies together."""

    group_bytes: Int64
    """Bytes of the shards of each group, int64 [groups]."""

    line: TokenLine
    """Where the tokens come from."""

    @property
    def num_sequences(self) -> int:
        """Sequences of the split."""
        ...

    def fill(self, numbers: Int64, chosen: Sequence[int], buffers: RowBuffers) -> None:
        """Gather the sequences of int64 [N] `numbers` into the N rows `chosen` of `buffers`."""
        ...

    def spans(self, number: int) -> Iterator[Span]:
        """Yield what the T tokens of a sequence are made of, without padding."""
        ...

    def document_parts(self, number: int) -> Iterator[DocumentPart]:
        """Yield the documents that a sequence is made of, or parts of them, in the order of the row."""
        ...


class ConcatSequences:
    """Documents end to end: sequence i is the tokens i * T to i * T + T of the line, one more than its T inputs.

    A group is a shard, with the sequences whose first token lies in it.
    """

    def __init__(self, line: TokenLine, table: ShardTable, num_tokens: int, fingerprint: str) -> None:
        self.line = line
        self.fingerprint = fingerprint
        self._num_tokens = num_tokens
        # The last sequence needs one more token, for its last label.
        self._num_sequences = max(0, line.num_tokens - 1) // num_tokens
        ends = -(-np.cumsum(table.columns.counts["num_tokens"]) // num_tokens)
        self.group_sizes: Int64 = np.diff(np.minimum(ends, self._num_sequences), prepend=0)
        self.group_bytes: Int64 = table.columns.counts["num_bytes"]

    @property
    def num_sequences(self) -> int:
        """Whole sequences of the line; the rest of it is never read."""
        return self._num_sequences

    def fill(self, numbers: Int64, chosen: Sequence[int], buffers: RowBuffers) -> None:
        """Gather the sequences of int64 [N] `numbers` into the N rows `chosen` of `buffers`."""
        line, rows, num_tokens = self.line, buffers.rows, self._num_tokens
        starts = numbers * num_tokens
        batches = line.batch_numbers(starts)
        wants_documents = buffers.wants_documents
        for row, start, batch in zip(chosen, starts.tolist(), batches, strict=True):
            line.copy(start, batch, rows[row])
            if wants_documents:
                buffers.begin_documents(row, line.document_starts(start, batch, num_tokens))

    def spans(self, number: int) -> Iterator[Span]:
        """Yield the one piece of the line that a sequence is."""
        yield Span(number * self._num_tokens, self._num_tokens)

    def document_parts(self, number: int) -> Iterator[DocumentPart]:
        """Yield the documents that a sequence is made of, or parts of them, in the order of the row."""
        for span in self.spans(number):
            yield from self.line.document_parts(span.start, span.num_tokens)


class PackedSequences:
    """Packs of whole documents, and of the pieces of those longer than T, as `packing/` laid them out.

    The last token of a document has no label; padding fills the rest of a row. A group is a pack group.
    """

    def __init__(self, line: TokenLine, index: PackIndex, padding_id: int) -> None:
        self.line = line
        self.fingerprint = index.fingerprint
        self._index = index
        self._padding_id = padding_id
        self.group_sizes: Int64 = index.group_sizes
        self.group_bytes: Int64 = index.group_bytes

    @property
    def num_sequences(self) -> int:
        """Packs of all groups."""
        return self._index.num_packs

    def fill(self, numbers: Int64, chosen: Sequence[int], buffers: RowBuffers) -> None:
        """Gather the packs of int64 [N] `numbers` into the N rows `chosen` of `buffers`."""
        for row, number in zip(chosen, numbers.tolist(), strict=True):
            self._fill_row(number, row, buffers)

    def spans(self, number: int) -> Iterator[Span]:
        """Yield the fragments of a pack."""
        pack = self._index.pack(number)
        for start, length in zip(pack.starts.tolist(), pack.lengths.tolist(), strict=True):
            yield Span(start, length)

    def document_parts(self, number: int) -> Iterator[DocumentPart]:
        """Yield the documents that a pack is made of, or parts of them, in the order of the row."""
        for span in self.spans(number):
            yield from self.line.document_parts(span.start, span.num_tokens)

    def _fill_row(self, number: int, row: int, buffers: RowBuffers) -> None:
        pack, tokens = self._index.pack(number), buffers.rows[row]
        batches = self.line.batch_numbers(pack.starts)
        if pack.is_continued:
            # All of the row is inside a document, and the token after the row is its last label.
            self.line.copy(int(pack.starts[0]), batches[0], tokens)
            buffers.begin_documents(row, ())
            return
        ends = [0, *np.cumsum(pack.lengths).tolist()]
        for start, batch, (first, end) in zip(pack.starts.tolist(), batches, pairwise(ends), strict=True):
            self.line.copy(start, batch, tokens[first:end])
        tokens[ends[-1] :] = self._padding_id
        buffers.begin_documents(row, ends[1:])
        buffers.labels[row, ends[-1] - 1 :] = IGNORED_LABEL
