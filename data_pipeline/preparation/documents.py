"""Yields the documents of a piece of a corpus, as text and as the UTF-8 bytes it came in.

Every fault names the file and the place in it. Tokenizes nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa

from data_pipeline.config import ReadingConfig
from data_pipeline.errors import DataError
from data_pipeline.preparation.corpus_file import codec_of, open_bytes
from data_pipeline.preparation.hub_dataset import read_shards
from data_pipeline.preparation.inputs import Piece
from data_pipeline.preparation.tables import Column, read_csv, read_table

# One document is held in memory several times over, and Arrow's list offsets end at 2**31.
MOST_DOCUMENT_BYTES = 256 * 1024 * 1024
_TEXT_CELLS = (pa.StringScalar, pa.LargeStringScalar, pa.StringViewScalar, pa.BinaryScalar)
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
        elif piece.kind in ("csv", "tsv"):
            yield from self._read_csv(piece)
        elif piece.kind == "hub":
            yield from self._read_hub(piece)
        else:
            yield from self._read_rows(piece)

    def _read_text(self, piece: Piece) -> Iterator[Document]:
        with open_bytes(piece.path) as (file, _):
            content = file.read(MOST_DOCUMENT_BYTES + 1)
        _check_length(content, piece.place, "use --text-unit line, or cut the file")
        yield from self._decode(content, piece.place, 0, piece.num_bytes)

    def _read_lines(self, piece: Piece) -> Iterator[Document]:
        """Yield from the lines that start inside the piece; the last of them may end beyond it."""
        with open_bytes(piece.path) as (file, raw):
            compressed_before = 0
            for offset, line in _lines_starting_in(file, piece):
                num_source_bytes = len(line)
                if codec_of(piece.path):
                    compressed_after = raw.tell()
                    num_source_bytes, compressed_before = compressed_after - compressed_before, compressed_after
                place = f"{piece.place}: byte {offset}"
                if piece.kind == "lines":
                    yield from self._decode(line.removesuffix(b"\n"), piece.place, offset, num_source_bytes)
                elif line.strip():
                    yield from self._decode_json_line(line, piece, offset, place, num_source_bytes)

    def _decode_json_line(
        self, line: bytes, piece: Piece, offset: int, place: str, num_source_bytes: int
    ) -> Iterator[Document]:
        for decoded in self._decode(line, piece.place, offset, num_source_bytes):
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
        for decoded in self._decode(content, piece.place, 0, piece.num_bytes):
            try:
                rows = json.loads(decoded.text.removeprefix("\ufeff"))
            except json.JSONDecodeError as error:
                raise DataError(f"{piece.place}: not JSON at character {error.pos}: {error.msg}") from None
            for number, row in enumerate(rows):
                place = f"{piece.place}: element {number}"
                yield from self._encode(self._text_of(row, place), place, piece.num_bytes // len(rows))

    def _read_rows(self, piece: Piece) -> Iterator[Document]:
        """Yield the rows of a table whose size in rows is known before."""
        num_bytes_left, rows_left = piece.num_bytes, None
        for column in read_table(piece, self._reading.text_field):
            rows_left = column.num_rows_of_piece if rows_left is None else rows_left
            for number in range(len(column.values)):
                share = num_bytes_left // max(1, rows_left)
                num_bytes_left, rows_left = num_bytes_left - share, rows_left - 1
                yield from self._decode_cell(column, number, piece, share)

    def _read_csv(self, piece: Piece) -> Iterator[Document]:
        for column in read_csv(piece, self._reading.text_field):
            for number in range(len(column.values)):
                share = column.num_source_bytes // len(column.values)
                yield from self._decode_cell(column, number, piece, share)

    def _decode_cell(self, column: Column, number: int, piece: Piece, num_source_bytes: int) -> Iterator[Document]:
        place = f"{piece.place}: row {column.first_row + number}"
        value = column.values[number]
        if not isinstance(value, _TEXT_CELLS) or not value.is_valid:
            raise DataError(f"{place}: column `{self._reading.text_field}` holds {value}, needs text")
        yield from self._decode(value.as_buffer().to_pybytes(), place, 0, num_source_bytes)

    def _read_hub(self, piece: Piece) -> Iterator[Document]:
        num_bytes_left = piece.num_bytes
        for place, row in read_shards(piece, self._reading.text_field):
            for document in self._encode(self._text_of(row, place), place, 0):
                share = min(len(document.utf8), num_bytes_left)
                num_bytes_left -= share
                yield replace(document, num_source_bytes=share)

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
    _check_length(line, f"{piece.place}: byte {offset}", "cut the line")
    return line


def _check_length(content: bytes, place: str, advice: str) -> None:
    if len(content) > MOST_DOCUMENT_BYTES:
        raise DataError(f"{place}: a document of over {MOST_DOCUMENT_BYTES} bytes, the most is that: {advice}")
