"""Reads the text column of a table, some rows at a time. Makes no documents of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.preparation.corpus_file import open_bytes, open_table
from data_pipeline.preparation.inputs import Piece

_ROWS_AT_A_TIME = 256
# The CSV reader needs a row to lie within two blocks; a worker holds a few of them.
_CSV_BLOCK_BYTES = 32 * 1024 * 1024
_HEADER_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Column:
    """The text of some rows."""

    values: Any
    """A pyarrow array, or something like it."""

    first_row: int
    """Number of the first, in the file."""

    num_rows_of_piece: int = 0
    """Rows of the whole piece, where that is known before they are read."""

    num_source_bytes: int = 0
    """Bytes of the file that these rows stand for, where it is not."""


def read_table(piece: Piece, field: str) -> Iterator[Column]:
    """Yield column `field` of a piece of a Parquet or Arrow file, or of a saved dataset."""
    if piece.kind == "parquet":
        yield from _read_parquet(piece, field)
        return
    table = open_table(piece.path, piece.kind)
    _check_column(table.column_names, piece, field)
    stop = len(table) if piece.stop is None else piece.stop
    for first in range(piece.start, stop, _ROWS_AT_A_TIME):
        last = min(first + _ROWS_AT_A_TIME, stop)
        rows = table[first:last] if piece.kind == "saved" else table.slice(first, last - first)
        yield Column(rows[field], first, num_rows_of_piece=stop - piece.start)


def read_csv(piece: Piece, field: str) -> Iterator[Column]:
    """Yield column `field` of a file with a header, as bytes; quoted cells may hold line ends and delimiters."""
    from pyarrow import csv  # noqa: PLC0415  (only this kind needs it)

    parsing = csv.ParseOptions(delimiter="\t" if piece.kind == "tsv" else ",", newlines_in_values=True)
    # Bytes, so that text that is not UTF-8 is one row's fault; an empty cell is an empty text, not a null.
    converting = csv.ConvertOptions(
        include_columns=[field], column_types={field: pa.binary()}, strings_can_be_null=False
    )
    try:
        _check_column(_csv_header(piece, parsing), piece, field)
        with open_bytes(piece.path) as (file, raw):
            reading = csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES)
            first, before = 1, 0
            for batch in csv.open_csv(file, reading, parsing, converting):
                after = raw.tell()
                yield Column(batch.column(0), first, num_source_bytes=after - before)
                first, before = first + batch.num_rows, after
    except pa.ArrowException as error:
        raise DataError(
            f"{piece.place}: not a table of separated values: {error}: mend the row; one row has at most "
            f"{_CSV_BLOCK_BYTES} bytes"
        ) from None


def _csv_header(piece: Piece, parsing: Any) -> list[str]:
    """Read the names of the columns alone: the reader would not tell them where the wanted one is missing."""
    from pyarrow import csv  # noqa: PLC0415  (only this kind needs it)

    with open_bytes(piece.path, _HEADER_BYTES) as (file, _):
        reading = csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES)
        return list(csv.open_csv(file, reading, parsing).schema.names)


def _read_parquet(piece: Piece, field: str) -> Iterator[Column]:
    import pyarrow.parquet as pq  # noqa: PLC0415  (only this kind needs it)

    try:
        with open_bytes(piece.path) as (raw, _), pq.ParquetFile(raw) as file:
            _check_column(file.schema_arrow.names, piece, field)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            first, groups = sum(counts[: piece.start]), range(piece.start, piece.stop or 0)
            num_rows = sum(counts[group] for group in groups)
            for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=list(groups), columns=[field]):
                yield Column(batch.column(0), first, num_rows_of_piece=num_rows)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{piece.place}: row groups {piece.start}..{piece.stop} are damaged: {error}") from None


def _check_column(names: list[str], piece: Piece, field: str) -> None:
    if field not in names:
        raise DataError(f"{piece.place}: no column `{field}` (columns: {', '.join(names)}): name it with --text-field")
