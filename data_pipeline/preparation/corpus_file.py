"""Opens one file of a corpus, here or behind a URL, and says in its own words when the file is damaged."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast
from urllib.parse import urlsplit

import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.preparation.remote_file import REQUEST_BYTES, is_url, open_url, shown_url

FileKind = Literal["text", "lines", "json_lines", "json_array", "csv", "tsv", "parquet", "arrow", "saved", "hub"]
"""How documents lie in a file: the whole file, its lines, JSON objects, or rows of a table."""

COMPRESSED_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
_PEEK_BYTES = 4096


def file_name(path: str) -> str:
    """Return the last part of a path or URL, without the query of a web address."""
    return PurePosixPath(urlsplit(path).path if is_url(path) else path).name


def codec_of(path: str) -> str | None:
    """Return what the file is compressed with, by its name; such a file is read only from its start."""
    return COMPRESSED_SUFFIXES.get(PurePosixPath(file_name(path)).suffix.lower())


@contextmanager
def open_bytes(path: str, request_bytes: int = REQUEST_BYTES) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open as (the file's text as bytes, the file as stored); the position of the latter tells the progress.

    Raises DataError where the file cannot be opened, or its compressed data is damaged, now or inside the block;
    StorageError where a store does not answer.
    """
    codec = codec_of(path)
    try:
        with open_url(path, request_bytes) if is_url(path) else Path(path).open("rb") as raw:
            if codec is None:
                yield raw, raw
                return
            with _plain(raw, codec) as plain:
                yield plain, raw
    except (EOFError, zlib.error, OSError) as error:
        # Complaints about content carry no number of the system; those about plain content are the reader's own.
        if getattr(error, "errno", None) is None:
            if codec is None:
                raise
            raise DataError(f"{shown_url(path)}: damaged or cut off, as {codec} data: {error}") from None
        raise DataError(f"{shown_url(path)}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _plain(raw: BinaryIO, codec: str) -> Iterator[BinaryIO]:
    if codec == "gzip":
        with gzip.GzipFile(fileobj=raw) as plain:
            yield cast(BinaryIO, plain)
        return
    with pa.CompressedInputStream(raw, codec) as stream:
        yield cast(BinaryIO, io.BufferedReader(stream, 1024 * 1024))


def starts_with_bracket(path: str) -> bool:
    """Whether a JSON file holds one array, rather than an object a line."""
    with open_bytes(path, _PEEK_BYTES) as (file, _):
        return file.read(_PEEK_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def open_table(path: str, kind: FileKind) -> Any:
    """Map an Arrow file (either format) or a saved dataset, as something with a length, `column_names` and slices."""
    if kind == "saved":
        import datasets  # noqa: PLC0415  (takes a second to import, and only this kind needs it)

        try:
            return datasets.load_from_disk(path).with_format("arrow")
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a whole saved dataset: {error}") from None
    try:
        mapped = pa.memory_map(path)
        try:
            return pa.ipc.open_file(mapped).read_all()
        except pa.ArrowInvalid:
            mapped.seek(0)
            return pa.ipc.open_stream(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Arrow file: {error}") from None


def count_row_groups(path: str) -> int:
    """Count the row groups of a Parquet file. Raises DataError if it is not whole."""
    import pyarrow.parquet as pq  # noqa: PLC0415  (only this kind needs it)

    try:
        with open_bytes(path, 64 * 1024) as (file, _):
            return int(pq.read_metadata(file).num_row_groups)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown_url(path)}: not a whole Parquet file: {error}") from None
