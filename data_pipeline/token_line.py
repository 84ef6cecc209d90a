"""One split of a dataset as one line of tokens, and where in it the documents begin.

The index of the shards leads straight to the tokens: no Arrow metadata is read, shards open when first touched.
Knows no sequence, no order and no epoch; where the bytes come from is `shard_files.py`'s.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import DataError
from data_pipeline.shard_files import ShardFiles
from data_pipeline.shard_index import ShardTable

Int64 = npt.NDArray[np.int64]

_DOCUMENT_ID_BYTES = 16


class _OpenBatch(NamedTuple):
    """A record batch whose bytes are mapped."""

    tokens: npt.NDArray[Any]
    """[tokens of the batch], in the stored width"""

    bounds: npt.NDArray[np.int32]
    """int32 [documents + 1]: document i is tokens[bounds[i]:bounds[i + 1]]"""

    first_token: int
    """Place of its first token in the line."""

    bounds_view: memoryview
    """The bounds again: a search in it is three times as fast as in an array."""


@dataclass(frozen=True)
class DocumentPart:
    """Tokens of one document that follow each other."""

    shard_file: str
    """File of the shard, inside the dataset directory."""

    document_id: str
    """xxh3_128 of the document's text, as 32 hexadecimal digits."""

    first_token: int
    """Place of the part's first token in its document."""

    num_tokens: int
    """Tokens of the part."""

    num_document_tokens: int
    """Tokens of the whole document."""


class TokenLine:
    """The tokens of all shards of a split, in manifest order, addressed by their place in the line."""

    def __init__(self, table: ShardTable, files: ShardFiles, token_dtype: str) -> None:
        self.dtype = np.dtype(token_dtype)
        self.num_tokens = table.num_tokens
        self._table = table
        self._files = files
        self._first_tokens = table.batches.first_token
        self._counts = table.batches.counts
        self._open: dict[int, _OpenBatch] = {}

    def batch_numbers(self, starts: Int64) -> list[int]:
        """Return the record batch, counted in the split, that holds each place of int64 [N] `starts`."""
        numbers: list[int] = (self._first_tokens.searchsorted(starts, side="right") - 1).tolist()
        return numbers

    def copy(self, start: int, batch: int, row: Int64) -> None:
        """Copy tokens to all of `row`, int64 [any length], from place `start`, which lies in record batch `batch`."""
        opened = self._open.get(batch) or self._open_batch(batch)
        offset = start - opened.first_token
        piece = opened.tokens[offset : offset + len(row)]
        if len(piece) == len(row):
            row[:] = piece
            return
        row[: len(piece)] = piece
        self.copy(start + len(piece), batch + 1, row[len(piece) :])

    def document_starts(self, start: int, batch: int, num_tokens: int) -> list[int]:
        """Return which documents begin at the places start + 1 to start + num_tokens, both included, less `start`.

        `start` lies in record batch `batch`. The line's end counts as a beginning.
        """
        opened = self._open.get(batch) or self._open_batch(batch)
        bounds, offset = opened.bounds_view, start - opened.first_token
        lowest = bisect_right(bounds, offset)
        # Few documents begin in a row: the second search looks nearby first.
        highest = lowest
        end = offset + num_tokens
        if lowest < len(bounds) and bounds[lowest] <= end:
            highest = bisect_right(bounds, end, lowest, min(lowest + num_tokens, len(bounds)))
        starts = [place - offset for place in bounds[lowest:highest]]
        num_here = bounds[-1] - offset
        if num_here < num_tokens and start + num_here < self.num_tokens:
            following = self.document_starts(start + num_here, batch + 1, num_tokens - num_here)
            starts += [num_here + place for place in following]
        return starts

    def let_go(self) -> None:
        """Hold no record batch any more, so that the disk of those that a cache evicted comes free."""
        self._open.clear()

    def document_bounds(self, batch: int) -> npt.NDArray[np.int32]:
        """Return the bounds of the documents of a record batch, int32 [documents + 1], from 0 to its tokens."""
        return (self._open.get(batch) or self._open_batch(batch)).bounds

    def document_parts(self, start: int, num_tokens: int) -> Iterator[DocumentPart]:
        """Yield the documents, or parts of them, that the places from `start` on are made of."""
        (batch,) = self.batch_numbers(np.array([start]))
        while num_tokens:
            bounds, first = self.document_bounds(batch), int(self._first_tokens[batch])
            document = int(bounds.searchsorted(np.int32(start - first), side="right")) - 1
            while num_tokens and document < len(bounds) - 1:
                first_of_document, end = (first + int(place) for place in bounds[document : document + 2])
                count = min(num_tokens, end - start)
                yield DocumentPart(
                    shard_file=self._shard_file(batch),
                    document_id=self._document_id(batch, document),
                    first_token=start - first_of_document,
                    num_tokens=count,
                    num_document_tokens=end - first_of_document,
                )
                start, num_tokens, document = start + count, num_tokens - count, document + 1
            batch += 1

    def describe_place(self, place: int) -> str:
        """Say in which shard file, and at which byte of it, the token at `place` lies."""
        (batch,) = self.batch_numbers(np.array([place]))
        offset = place - int(self._first_tokens[batch])
        byte = int(self._counts["tokens_offset_bytes"][batch]) + offset * self.dtype.itemsize
        return f"{self._shard_file(batch)}, byte {byte}"

    def _shard_number(self, batch: int) -> int:
        return int(self._table.columns.first_batches.searchsorted(batch, side="right")) - 1

    def _shard_file(self, batch: int) -> str:
        return str(self._table.columns.files[self._shard_number(batch)].as_py())

    def _document_id(self, batch: int, document: int) -> str:
        content, origin = self._record_batch(batch)
        first = int(self._counts["document_ids_offset_bytes"][batch]) - origin + _DOCUMENT_ID_BYTES * document
        return content[first : first + _DOCUMENT_ID_BYTES].tobytes().hex()

    def _record_batch(self, batch: int) -> tuple[npt.NDArray[np.uint8], int]:
        shard = self._shard_number(batch)
        return self._files.record_batch(shard, batch - int(self._table.columns.first_batches[shard]))

    def _open_batch(self, batch: int) -> _OpenBatch:
        content, origin = self._record_batch(batch)
        counts = {name: int(column[batch]) for name, column in self._counts.items()}
        tokens_start, bounds_start = (
            counts[name] - origin for name in ("tokens_offset_bytes", "list_offsets_offset_bytes")
        )
        bounds = np.frombuffer(content, np.int32, counts["num_documents"] + 1, bounds_start)
        rise = bounds[1:] > bounds[:-1]
        # Bounds of a damaged file must not lead outside the batch.
        if bounds[0] != 0 or bounds[-1] != counts["num_tokens"] or not rise.all():
            byte = counts["list_offsets_offset_bytes"]
            raise DataError(
                f"{self._shard_file(batch)}: the documents' bounds at byte {byte} do not rise from 0 to "
                f"{counts['num_tokens']}: the shard is damaged: run `llama-dist data verify`"
            )
        tokens = np.frombuffer(content, self.dtype, counts["num_tokens"], tokens_start)
        opened = self._open[batch] = _OpenBatch(tokens, bounds, int(self._first_tokens[batch]), bounds.data)
        if len(self._open) > self._files.most_held_batches:
            # The one opened first; keeping count of the last use would cost more than opening it again.
            del self._open[next(iter(self._open))]
        return opened
