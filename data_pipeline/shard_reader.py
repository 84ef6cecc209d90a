"""Reads a shard through Arrow, for checks and for looking at documents. The stream has its own, faster way."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.preparation.shard_writer import shard_schema


@dataclass(frozen=True)
class DocumentBatch:
    """One record batch: the tokens of its documents end to end, and their bounds."""

    tokens: npt.NDArray[Any]
    """[tokens of the batch], in the stored width"""

    bounds: npt.NDArray[np.int32]
    """int32 [documents + 1]: document i is tokens[bounds[i]:bounds[i + 1]]"""


def read_batches(path: Path, token_dtype: str) -> Iterator[DocumentBatch]:
    """Map the shard and yield its batches in order.

    Raises DataError where it is not a whole Arrow file, has other columns than a shard with ids of `token_dtype`, or
    holds a null or a batch without rows.
    """
    try:
        with pa.memory_map(str(path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            _check_schema(path, reader.schema, token_dtype)
            for number in range(reader.num_record_batches):
                yield _document_batch(f"{path}: record batch {number}", reader.get_batch(number))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Arrow file: {error}") from None


def _check_schema(path: Path, schema: Any, token_dtype: str) -> None:
    """The columns of every shard come first; others may follow."""
    needed = shard_schema(token_dtype)
    seen = [(field.name, field.type) for field in schema][: len(needed)]
    if seen != [(field.name, field.type) for field in needed]:
        shown, wanted = (", ".join(f"{field.name}: {field.type}" for field in one) for one in (schema, needed))
        raise DataError(f"{path}: wrong schema: has the columns {shown}; needed {wanted}")


def _document_batch(where: str, batch: Any) -> DocumentBatch:
    if not batch.num_rows:
        raise DataError(f"{where}: zero rows: a batch holds at least one document")
    # Offsets and sizes are compared before a pointer is made of them.
    batch.validate(full=True)
    tokens = batch.column(0)
    for name, array in (("tokens", tokens), ("doc_id", batch.column(1)), ("the values of tokens", tokens.values)):
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(
                f"{where}: {array.null_count} null(s) in {name}, the first at row {row}: documents have none"
            )
    return DocumentBatch(
        tokens=tokens.values.to_numpy(zero_copy_only=True), bounds=tokens.offsets.to_numpy(zero_copy_only=True)
    )
