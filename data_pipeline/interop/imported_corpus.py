"""What a dataset of another program looks like to the import: its files, and its documents one after another.

Records only: `megatron_files.py` and `mds_files.py` read the formats, `import_dataset.py` writes ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import DataError


@dataclass(frozen=True)
class ForeignFile:
    """One file that the import reads, as the manifest's list of sources names it."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class ImportedDocument:
    """One document: token ids, or text that is still to be tokenized."""

    place: str
    """File, number of the document and its byte offset, for messages."""

    content: npt.NDArray[Any] | str
    """Whole numbers [tokens], as they were stored, or text."""

    num_stored_bytes: int
    """Bytes that it took in its file, for the progress."""


class ImportedCorpus(Protocol):
    """A dataset of another program, opened and checked at sight."""

    format_name: str
    """What the list of sources calls the format, with the options that decide how it is read."""

    holds_text: bool
    """Whether documents are text."""

    files: tuple[ForeignFile, ...]
    """Every file that is read."""

    def documents(self) -> Iterator[ImportedDocument]:
        """Yield the documents in their order. Raises DataError, with file and offset, where the data is damaged."""
        ...


def size_of(path: Path) -> int:
    """Return the bytes of a file that must exist. Raises DataError."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def view_numbers(content: memoryview, dtype: str, count: int, first_byte: int) -> npt.NDArray[Any]:
    """Return `count` little-endian numbers that start at `first_byte`, without a copy."""
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<"), count, first_byte)
