"""Reads a shard through Arrow, for checks and for looking at documents. The stream has its own, faster way."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.errors import DataError


@dataclass(frozen=True)
class DocumentBatch:
    """One record batch: the tokens of its documents end to end, and their bounds."""

    tokens: npt.NDArray[Any]
    """[tokens of the batch], in the stored width"""

    bounds: npt.NDArray[np.int32]
    """int32 [documents + 1]: document i is tokens[bounds[i]:bounds[i + 1]]"""


def read_batches(path: Path) -> Iterator[DocumentBatch]:
    """Map the shard and yield its batches in order. Raises DataError where it is not a whole Arrow file."""
    try:
        with pa.memory_map(str(path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            for number in range(reader.num_record_batches):
                column = reader.get_batch(number).column(0)
                yield DocumentBatch(
                    tokens=column.values.to_numpy(zero_copy_only=True),
                    bounds=column.offsets.to_numpy(zero_copy_only=True),
                )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Arrow file: {error}") from None
