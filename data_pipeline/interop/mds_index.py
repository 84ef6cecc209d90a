"""Reads the `index.json` of a MosaicML streaming (MDS) dataset: which shards there are and how rows are encoded.

Reads no shard: that is `mds_files.py`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_pipeline.errors import DataError

INDEX_NAME = "index.json"

# Encodings of token ids and of text. `bytes` do not say what they hold, so the caller does.
_IDS_ENCODING = re.compile(r"^(bytes|ndarray(:(?P<dtype>u?int(8|16|32|64))(:(?P<shape>\d+(,\d+)*))?)?)$")
Count = Annotated[int, Field(ge=0)]


class _IndexModel(BaseModel):
    """Strict about what is read and blind to the rest: another program writes the file, and may write more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class FileInfo(_IndexModel):
    """One file as the index describes it."""

    basename: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    bytes: Count
    hashes: dict[str, str] = {}


class MdsShard(_IndexModel):
    """One shard: rows of columns, perhaps compressed."""

    format: Literal["mds"]
    version: Literal[2]
    samples: Count
    column_names: list[str]
    column_encodings: list[str]
    column_sizes: list[Annotated[int, Field(ge=0)] | None]
    compression: str | None = None
    raw_data: FileInfo
    zip_data: FileInfo | None = None

    @property
    def stored(self) -> FileInfo:
        """The file that must be there."""
        return self.zip_data if self.compression and self.zip_data else self.raw_data


class _Index(_IndexModel):
    version: Literal[2]
    shards: list[MdsShard]


@dataclass(frozen=True)
class Column:
    """The one column that is imported."""

    place: int
    """Its number among the columns of a row."""

    is_text: bool

    dtype: str | None
    """Type of the ids, or None where each value names its own."""

    has_shape: bool
    """Whether each value starts with its shape."""


def read_index(directory: Path) -> list[MdsShard]:
    """Return the shards in their order. Raises DataError for anything but an MDS index."""
    path = directory / INDEX_NAME
    try:
        return _Index.model_validate(json.loads(path.read_bytes())).shards
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}: an MDS dataset has this file") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise DataError(
            f"{path}: not an index of MDS version 2: {'.'.join(map(str, fault['loc']))}: {fault['msg']} "
            f"(got {str(fault['input'])[:80]!r})"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None


def find_column(directory: Path, shards: Sequence[MdsShard], name: str, bytes_dtype: str) -> Column:
    """Find the column `name`, the same in all shards. `bytes_dtype` is the type of ids in a column of raw bytes."""
    path = directory / INDEX_NAME
    if not shards:
        raise DataError(f"{path}: lists no shard: nothing to import")
    first = shards[0]
    columns = (first.column_names, first.column_encodings, first.column_sizes)
    num_columns = {len(first.column_names), len(first.column_encodings), len(first.column_sizes)}
    for number, shard in enumerate(shards):
        if (shard.column_names, shard.column_encodings, shard.column_sizes) != columns:
            raise DataError(f"{path}: shard {number} has other columns than shard 0: import them one by one")
    if len(num_columns) != 1:
        raise DataError(f"{path}: shard 0 has {sorted(num_columns)} names, encodings and sizes of columns: damaged")
    if name not in first.column_names:
        raise DataError(f"{path}: no column {name!r}, there are {', '.join(first.column_names)}: give --column")
    place = first.column_names.index(name)
    encoding = first.column_encodings[place]
    if encoding == "str":
        return Column(place, is_text=True, dtype=None, has_shape=False)
    ids = _IDS_ENCODING.match(encoding)
    if ids is None:
        raise DataError(
            f"{path}: column {name!r} is encoded as {encoding!r}: needed `str` for text, "
            "or `bytes` or an `ndarray` of whole numbers for ids"
        )
    dtype = np.dtype(bytes_dtype).name if encoding == "bytes" else ids["dtype"]
    return Column(place, is_text=False, dtype=dtype, has_shape=encoding != "bytes" and ids["shape"] is None)
