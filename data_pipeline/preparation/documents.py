"""Yields the documents of a piece of a corpus, as text and as the UTF-8 bytes it came in.

Every fault names the file and the place in it. Tokenizes nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from data_pipeline.config import ReadingConfig
from data_pipeline.errors import DataError
from data_pipeline.preparation.corpus_file import is_compressed, open_bytes, open_table
from data_pipeline.preparation.inputs import Piece

# One document is held in memory several times over, and Arrow's list offsets end at 2**31.
MOST_DOCUMENT_BYTES = 256 * 1024 * 1024
_ROWS_AT_A_TIME = 256
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Document:
    """One text, never changed on its way: line ends and byte order marks are kept."""

    text: str
    utf8: bytes
    num_source_bytes: int
    """Bytes of the file on disk that it stands for, in the progress."""


class DocumentReader:
    """Reads pieces, one after another, and counts what it had to leave out."""

    def __init__(self, reading: ReadingConfig) -> None:
        self.num_skipped_invalid_utf8 = 0
        self._reading = reading

    def read(self, piece: Piece) -> Iterator[Document]:
        """Yield the documents of `piece` in file order. Raises DataError that names the place of a fault."""
        if piece.kind == "text":
            yield from self._read_text(piece)
        elif piece.kind in ("lines", "json_lines"):
            yield from self._read_lines(piece)
        elif piece.kind == "json_array":
            yield from self._read_json_array(piece)
        else:
            yield from self._read_table(piece)

    def _read_text(self, piece: Piece) -> Iterator[Document]:
        with open_bytes(piece.path) as (file, _):
            content = file.read(MOST_DOCUMENT_BYTES + 1)
        _check_length(content, str(piece.path), "use --text-unit line, or cut the file")
        yield from self._decode(content, str(piece.path), 0, piece.num_bytes)

    def _read_lines(self, piece: Piece) -> Iterator[Document]:
        """Yield from the lines that start inside the piece; the last of them may end beyond it."""
        with open_bytes(piece.path) as (file, raw):
            compressed_before = 0
            for offset, line in _lines_starting_in(file, piece):
                num_source_bytes = len(line)
                if is_compressed(piece.path):
                    compressed_after = raw.tell()
                    num_source_bytes, compressed_before = compressed_after - compressed_before, compressed_after
                place = f"{piece.path}: byte {offset}"
                if piece.kind == "lines":
                    yield from self._decode(line.removesuffix(b"\n"), str(piece.path), offset, num_source_bytes)
                elif line.strip():
                    yield from self._decode_json_line(line, piece, offset, place, num_source_bytes)

    def _decode_json_line(
        self, line: bytes, piece: Piece, offset: int, place: str, num_source_bytes: int
    ) -> Iterator[Document]:
        for decoded in self._decode(line, str(piece.path), offset, num_source_bytes):
            try:
                row = json.loads(decoded.text.removeprefix("\ufeff"))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{place}: not JSON at character {error.pos} of the line ({error.msg}): {line[:60]!r}"
                ) from None
            yield from self._encode(self._text_of(row, place), place, num_source_bytes)

    def _read_json_array(self, piece: Piece) -> Iterator[Document]:
        with open_bytes(piece.path) as (file, _):
            content = file.read()
        for decoded in self._decode(content, str(piece.path), 0, piece.num_bytes):
            try:
                rows = json.loads(decoded.text.removeprefix("\ufeff"))
            except json.JSONDecodeError as error:
                raise DataError(f"{piece.path}: not JSON at character {error.pos}: {error.msg}") from None
            for number, row in enumerate(rows):
                place = f"{piece.path}: element {number}"
                yield from self._encode(self._text_of(row, place), place, piece.num_bytes // len(rows))

    def _read_table(self, piece: Piece) -> Iterator[Document]:
        num_bytes_left, rows_left = piece.num_bytes, None
        for first_row, column, num_rows in _columns(piece, self._reading.text_field):
            rows_left = num_rows if rows_left is None else rows_left
            for number, value in enumerate(column):
                share = num_bytes_left // max(1, rows_left)
                num_bytes_left, rows_left = num_bytes_left - share, rows_left - 1
                place = f"{piece.path}: row {first_row + number}"
                if not isinstance(value, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar) or (
                    not value.is_valid
                ):
                    raise DataError(f"{place}: column `{self._reading.text_field}` holds {value}, needs text")
                yield from self._decode(value.as_buffer().to_pybytes(), place, 0, share)

    def _text_of(self, row: Any, place: str) -> str:
        field = self._reading.text_field
        if not isinstance(row, dict):
            raise DataError(f"{place}: holds {type(row).__name__}, needs a JSON object with the field `{field}`")
        if field not in row:
            present = ", ".join(map(str, row)) or "none"
            raise DataError(f"{place}: no field `{field}` (fields: {present}): name the text's with --text-field")
        text = row[field]
        if not isinstance(text, str):
            raise DataError(f"{place}: field `{field}` holds {type(text).__name__}, needs text")
        return text

    def _decode(self, utf8: bytes, place: str, offset: int, num_source_bytes: int) -> Iterator[Document]:
        try:
            text = utf8.decode("utf-8")
        except UnicodeDecodeError as error:
            self._skip_or_raise(
                f"{place}: not UTF-8 at byte {offset + error.start} (0x{utf8[error.start]:02X}, {error.reason})"
            )
            return
        yield Document(text, utf8, num_source_bytes)

    def _encode(self, text: str, place: str, num_source_bytes: int) -> Iterator[Document]:
        """Yield text that came through JSON, whose escapes can spell half a surrogate pair."""
        try:
            utf8 = text.encode("utf-8")
        except UnicodeEncodeError as error:
            self._skip_or_raise(f"{place}: character {error.start} of the text is half a surrogate pair, not UTF-8")
            return
        yield Document(text, utf8, num_source_bytes)

    def _skip_or_raise(self, fault: str) -> None:
        if self._reading.invalid_utf8 == "error":
            raise DataError(f"{fault}: convert the text, leave the file out, or use --invalid-utf8 skip")
        self.num_skipped_invalid_utf8 += 1


def _lines_starting_in(file: BinaryIO, piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line with its end) of each line that starts inside the piece."""
    offset = piece.start
    if offset:
        # The byte before tells whether a line starts exactly here; else the one at hand belongs to the piece before.
        file.seek(offset - 1)
        offset += len(_read_line(file, piece, offset - 1)) - 1
    while piece.stop is None or offset < piece.stop:
        line = _read_line(file, piece, offset)
        if not line:
            return
        yield offset, line
        offset += len(line)


def _read_line(file: BinaryIO, piece: Piece, offset: int) -> bytes:
    line = file.readline(MOST_DOCUMENT_BYTES + 1)
    _check_length(line, f"{piece.path}: byte {offset}", "cut the line")
    return line


def _columns(piece: Piece, field: str) -> Iterator[tuple[int, Any, int]]:
    """Yield (number of the first row, values of the text column, rows of the piece), some rows at a time."""
    if piece.kind == "parquet":
        yield from _parquet_columns(piece, field)
        return
    table = open_table(piece.path, piece.kind)
    _check_column(table.column_names, piece, field)
    stop = len(table) if piece.stop is None else piece.stop
    for first in range(piece.start, stop, _ROWS_AT_A_TIME):
        last = min(first + _ROWS_AT_A_TIME, stop)
        rows = table[first:last] if piece.kind == "saved" else table.slice(first, last - first)
        yield first, rows[field], stop - piece.start


def _parquet_columns(piece: Piece, field: str) -> Iterator[tuple[int, Any, int]]:
    import pyarrow.parquet as pq  # noqa: PLC0415  (only this kind needs it)

    try:
        with pq.ParquetFile(piece.path) as file:
            _check_column(file.schema_arrow.names, piece, field)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            first, groups = sum(counts[: piece.start]), range(piece.start, piece.stop or 0)
            num_rows = sum(counts[group] for group in groups)
            for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=list(groups), columns=[field]):
                yield first, batch.column(0), num_rows
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{piece.path}: row groups {piece.start}..{piece.stop} are damaged: {error}") from None


def _check_column(names: list[str], piece: Piece, field: str) -> None:
    if field not in names:
        raise DataError(f"{piece.path}: no column `{field}` (columns: {', '.join(names)}): name it with --text-field")


def _check_length(content: bytes, place: str, advice: str) -> None:
    if len(content) > MOST_DOCUMENT_BYTES:
        raise DataError(f"{place}: a document of over {MOST_DOCUMENT_BYTES} bytes, the most is that: {advice}")
