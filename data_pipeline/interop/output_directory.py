"""The directory that an import writes: its own while it runs, and left alone if it holds anything else.

Until the manifest is written there no dataset exists; what a killed import left is cleared by the next one.
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data_pipeline.durable_file import is_unfinished
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import INDEX_NAME, MANIFEST_NAME, PACKS_NAME, SHARDS_NAME, SOURCES_NAME, TOKENIZER_NAME

# Says that the shards beside it are an import's, so that nothing of a preparation is ever cleared.
IMPORT_MARK_NAME = ".importing"
_OUR_NAMES = {MANIFEST_NAME, INDEX_NAME, PACKS_NAME, SHARDS_NAME, SOURCES_NAME, TOKENIZER_NAME, IMPORT_MARK_NAME}
_SHARD_NAME = re.compile(r"^(train|validation)-00000-\d{3,}\.arrow(\.tmp-\d+)?$")


@contextmanager
def hold_output(output: Path) -> Iterator[None]:
    """Hold `output` for this process alone. Raises DataError if it is another's, StorageError if it cannot be made."""
    with _open_mark(output) as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{output}: another process is importing into it: wait for it, or end it") from None
        yield
        # The mark is for unfinished imports; a process that waits for the lock would only find the manifest.
        if (output / MANIFEST_NAME).exists():
            (output / IMPORT_MARK_NAME).unlink(missing_ok=True)


def clear_leftovers(output: Path) -> None:
    """Remove what a killed import left: without a manifest nobody can be reading it."""
    for child in (output / SHARDS_NAME).iterdir():
        if not _SHARD_NAME.match(child.name):
            raise DataError(f"{child}: not a file of an import: give --output a directory of its own")
        child.unlink()
    for child in output.iterdir():
        if is_unfinished(child.name):
            child.unlink()


def _open_mark(output: Path) -> BinaryIO:
    mark = output / IMPORT_MARK_NAME
    try:
        there = [child.name for child in output.iterdir()] if output.exists() else []
        if there and MANIFEST_NAME not in there:
            foreign = [name for name in there if name not in _OUR_NAMES and not is_unfinished(name)]
            if foreign or not mark.exists():
                shown = ", ".join(sorted(foreign or there)[:3])
                raise DataError(f"{output}: holds other things ({shown}): give --output a directory of its own")
        (output / SHARDS_NAME).mkdir(parents=True, exist_ok=True)
        return mark.open("wb")
    except OSError as error:
        raise StorageError(f"{output}: cannot be written: {error.strerror or error}") from None
