"""The index of a dataset's shards and their record batches: one Arrow file, mapped, so that opening costs no parsing.

One row a shard, those of the training split first. Thousands of shards open in milliseconds, and what is not looked at
takes no memory. Knows where things lie, not what the shards hold; `manifest.py` seals the file by its checksum.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from data_pipeline.config import StrictModel
from data_pipeline.errors import DataError

Int64 = npt.NDArray[np.int64]
Count = Annotated[int, Field(ge=0)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

_FILE_NAME = re.compile(r"^shards/[a-z0-9_-]+\.arrow$")
_CHECKSUM_BYTES = 16
_SHARD_COUNTS = ("num_bytes", "num_documents", "num_tokens", "num_text_bytes")
_BATCH_COUNTS = (
    "offset_bytes",
    "length_bytes",
    "num_documents",
    "num_tokens",
    "list_offsets_offset_bytes",
    "tokens_offset_bytes",
    "document_ids_offset_bytes",
)


class RecordBatchEntry(StrictModel):
    """Where one record batch lies in its shard, so that a reader needs no Arrow metadata."""

    offset_bytes: Count
    """Start of the batch in the file."""

    length_bytes: Count
    """Length of the batch in the file, metadata and padding included."""

    num_documents: Count
    """Rows of the batch."""

    num_tokens: Count
    """Tokens of all rows together."""

    list_offsets_offset_bytes: Count
    """Start of the int32 buffer that holds the bounds of the documents, one more than documents."""

    tokens_offset_bytes: Count
    """Start of the buffer of token ids, a multiple of 64."""

    document_ids_offset_bytes: Count
    """Start of the buffer of document ids, 16 bytes each."""

    checksum: Checksum
    """xxh3_128 of the batch's bytes: says which batch is damaged."""


class ShardEntry(StrictModel):
    """One Arrow IPC file."""

    file: Annotated[str, Field(pattern=_FILE_NAME.pattern)]
    """Path inside the dataset directory."""

    num_bytes: Count
    """Size of the file."""

    num_documents: Count
    """Rows of the file."""

    num_tokens: Count
    """Tokens of the file."""

    num_text_bytes: Count
    """UTF-8 bytes of the text that was tokenized."""

    checksum: Checksum
    """xxh3_128 of the whole file."""

    record_batches: Sequence[RecordBatchEntry]
    """The batches in file order."""


@dataclass(frozen=True)
class BatchColumns:
    """All record batches of a split, column by column, in the order of their tokens."""

    first_token: Int64
    """Place in the split's token line of each batch's first token, int64 [batches]."""

    counts: dict[str, Int64]
    """The whole numbers of `RecordBatchEntry` by their name, each int64 [batches]."""

    checksums: npt.NDArray[np.uint8]
    """uint8 [batches, 16]"""

    def entry(self, number: int) -> RecordBatchEntry:
        """Return one batch as a record."""
        counts: dict[str, Any] = {name: int(column[number]) for name, column in self.counts.items()}
        return RecordBatchEntry.model_construct(**counts, checksum=self.checksums[number].tobytes().hex())


@dataclass(frozen=True)
class ShardColumns:
    """All shards of a split, column by column."""

    files: Any
    """Arrow array of strings [shards]"""

    counts: dict[str, Int64]
    """The whole numbers of `ShardEntry` by their name, each int64 [shards]."""

    checksums: npt.NDArray[np.uint8]
    """uint8 [shards, 16]"""

    first_batches: Int64
    """Number in the split of each shard's first record batch, and their count at the end, int64 [shards + 1]."""


class _BatchRange(Sequence[RecordBatchEntry]):
    """The batches `first` to `end` of a split, made into records when asked for."""

    def __init__(self, columns: BatchColumns, first: int, end: int) -> None:
        self._columns, self._range = columns, range(first, end)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> RecordBatchEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordBatchEntry]: ...
    def __getitem__(self, index: int | slice) -> RecordBatchEntry | list[RecordBatchEntry]:
        if isinstance(index, slice):
            return [self._columns.entry(number) for number in self._range[index]]
        return self._columns.entry(self._range[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._range)


class ShardTable(Sequence[ShardEntry]):
    """The shards of a split in the order of their tokens; each is made into a record when asked for."""

    def __init__(self, shards: ShardColumns, batches: BatchColumns) -> None:
        self.columns = shards
        self.batches = batches

    @staticmethod
    def of(entries: Sequence[ShardEntry]) -> "ShardTable":
        """Return the table of `entries`, which may be one already."""
        return entries if isinstance(entries, ShardTable) else _table_of(list(entries))

    @property
    def num_tokens(self) -> int:
        """Tokens of all shards together."""
        return int(self.columns.counts["num_tokens"].sum())

    def __len__(self) -> int:
        return len(self.columns.files)

    @overload
    def __getitem__(self, index: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[ShardEntry]: ...
    def __getitem__(self, index: int | slice) -> ShardEntry | list[ShardEntry]:
        if isinstance(index, slice):
            return [self._entry(number) for number in range(len(self))[index]]
        return self._entry(range(len(self))[index])

    def __iter__(self) -> Iterator[ShardEntry]:
        return map(self._entry, range(len(self)))

    def __add__(self, other: Iterable[ShardEntry]) -> list[ShardEntry]:
        return [*self, *other]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self.columns.checksums.tobytes())

    def _entry(self, number: int) -> ShardEntry:
        columns = self.columns
        counts: dict[str, Any] = {name: int(column[number]) for name, column in columns.counts.items()}
        first, end = columns.first_batches[number : number + 2].tolist()
        return ShardEntry.model_construct(
            file=columns.files[number].as_py(),
            checksum=columns.checksums[number].tobytes().hex(),
            record_batches=_BatchRange(self.batches, first, end),
            **counts,
        )


def _table_of(entries: list[ShardEntry]) -> ShardTable:
    batches = list(chain.from_iterable(entry.record_batches for entry in entries))
    batch_counts = {name: _column(batches, name) for name in _BATCH_COUNTS}
    num_tokens = batch_counts["num_tokens"]
    num_batches = np.array([0, *(len(entry.record_batches) for entry in entries)], dtype=np.int64)
    return ShardTable(
        ShardColumns(
            files=pa.array([entry.file for entry in entries], pa.string()),
            counts={name: _column(entries, name) for name in _SHARD_COUNTS},
            checksums=_checksum_column(entries),
            first_batches=np.cumsum(num_batches),
        ),
        BatchColumns(np.cumsum(num_tokens) - num_tokens, batch_counts, _checksum_column(batches)),
    )


def _column(entries: Sequence[StrictModel], name: str) -> Int64:
    return np.array([getattr(entry, name) for entry in entries], dtype=np.int64)


def _checksum_column(entries: Sequence[ShardEntry] | Sequence[RecordBatchEntry]) -> npt.NDArray[np.uint8]:
    content = b"".join(bytes.fromhex(entry.checksum) for entry in entries)
    return np.frombuffer(content, np.uint8).reshape(-1, _CHECKSUM_BYTES)


def check_table(table: ShardTable, token_bytes: int, *, where: Path) -> None:
    """Raise DataError if an entry cannot be: every place that a reader would touch must lie inside its shard."""
    shards, batches = table.columns, table.batches
    name = next((name for name in shards.files.to_pylist() if not _FILE_NAME.match(name)), None)
    if name is not None:
        raise DataError(f"{where}: names the file {name!r}, a shard is shards/NAME.arrow: prepare the data again")
    counts = batches.counts
    num_batches = np.diff(shards.first_batches)
    sizes = np.repeat(shards.counts["num_bytes"], num_batches)
    ends = (
        counts["offset_bytes"] + counts["length_bytes"],
        counts["tokens_offset_bytes"] + counts["num_tokens"] * token_bytes,
        counts["list_offsets_offset_bytes"] + 4 * (counts["num_documents"] + 1),
        counts["document_ids_offset_bytes"] + 16 * counts["num_documents"],
    )
    columns = (*shards.counts.values(), *counts.values(), num_batches)
    is_sound = (
        all(not column.size or int(column.min()) >= 0 for column in columns)
        and all(bool((end <= sizes).all()) for end in ends)
        and np.array_equal(batches.first_token, np.cumsum(counts["num_tokens"]) - counts["num_tokens"])
        and int(counts["num_tokens"].sum()) == table.num_tokens
    )
    if not is_sound:
        raise DataError(f"{where}: its record batches lie outside their shards: prepare the data again")
    _check_layout(table, token_bytes, where=where)


def _check_layout(table: ShardTable, token_bytes: int, *, where: Path) -> None:
    """Raise DataError if the buffers of a batch do not follow each other as those of a shard do.

    Ids of another width, nulls or other columns would take other places; to open the shard itself would cost more.
    """
    shards, counts = table.columns, table.batches.counts
    bounds_end = counts["list_offsets_offset_bytes"] + 4 * (counts["num_documents"] + 1)
    tokens_end = counts["tokens_offset_bytes"] + counts["num_tokens"] * token_bytes
    is_ours = (
        (-(-bounds_end // 8) * 8 == counts["tokens_offset_bytes"])
        & (-(-tokens_end // 8) * 8 == counts["document_ids_offset_bytes"])
        & (counts["num_documents"] > 0)
    )
    if len(table) and int(np.diff(shards.first_batches).min()) < 1:
        number = int(np.argmin(np.diff(shards.first_batches)))
        raise DataError(f"{where}: {shards.files[number]} has zero rows: prepare the data again")
    if not is_ours.all():
        batch = int(np.argmin(is_ours))
        shard = int(shards.first_batches.searchsorted(batch, side="right")) - 1
        raise DataError(
            f"{where}: {shards.files[shard]} holds another schema, nulls or no row, in the record batch at byte "
            f"{counts['offset_bytes'][batch]}: prepare the data again"
        )
