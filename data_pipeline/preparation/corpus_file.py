"""Opens one file of a corpus, whatever its kind, and says in its own words when the file is damaged."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa

from data_pipeline.errors import DataError

FileKind = Literal["text", "lines", "json_lines", "json_array", "parquet", "arrow", "saved"]
"""How documents lie in a file: the whole file, its lines, JSON objects, or rows of a table."""

COMPRESSED_SUFFIX = ".gz"


def is_compressed(path: Path) -> bool:
    """Whether the file is read through gzip, and so only from its start."""
    return path.suffix == COMPRESSED_SUFFIX


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open as (the file's text as bytes, the file on disk); the position of the latter tells the progress.

    Raises DataError where the file cannot be opened, or its compressed data is damaged, now or inside the block.
    """
    try:
        with path.open("rb") as raw:
            if not is_compressed(path):
                yield raw, raw
                return
            with gzip.GzipFile(fileobj=raw) as plain:
                yield cast(BinaryIO, plain), raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut off, {path.stat().st_size} bytes of gzip: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def starts_with_bracket(path: Path) -> bool:
    """Whether a JSON file holds one array, rather than an object a line."""
    with open_bytes(path) as (file, _):
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def open_table(path: Path, kind: FileKind) -> Any:
    """Map an Arrow file (either format) or a saved dataset, as something with a length, `column_names` and slices."""
    if kind == "saved":
        import datasets  # noqa: PLC0415  (takes a second to import, and only this kind needs it)

        try:
            return datasets.load_from_disk(str(path)).with_format("arrow")
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a whole saved dataset: {error}") from None
    try:
        mapped = pa.memory_map(str(path))
        try:
            return pa.ipc.open_file(mapped).read_all()
        except pa.ArrowInvalid:
            mapped.seek(0)
            return pa.ipc.open_stream(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Arrow file: {error}") from None


def count_row_groups(path: Path) -> int:
    """Count the row groups of a Parquet file. Raises DataError if it is not whole."""
    import pyarrow.parquet as pq  # noqa: PLC0415  (only this kind needs it)

    try:
        return int(pq.read_metadata(path).num_row_groups)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file: {error}") from None
