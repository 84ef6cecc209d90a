"""Writes and maps the Arrow file of `shard_index.py`: one row a shard, with a list of its record batches."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.shard_index import BatchColumns, ShardColumns, ShardTable

_CHECKSUM = pa.binary(16)
_BATCH = pa.struct(
    [
        ("offset_bytes", pa.int64()),
        ("length_bytes", pa.int64()),
        ("num_documents", pa.int64()),
        ("num_tokens", pa.int64()),
        ("list_offsets_offset_bytes", pa.int64()),
        ("tokens_offset_bytes", pa.int64()),
        ("document_ids_offset_bytes", pa.int64()),
        ("first_token", pa.int64()),
        ("checksum", _CHECKSUM),
    ]
)
_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("file", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_documents", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_text_bytes", pa.int64()),
        ("checksum", _CHECKSUM),
        ("record_batches", pa.list_(_BATCH)),
    ]
)


def index_bytes(tables: dict[str, ShardTable]) -> bytes:
    """Return the file's content: one record batch a split. The same tables give the same bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        for split, table in tables.items():
            writer.write_batch(_arrow_batch(split, table))
    return bytes(sink.getvalue())


def read_index(content: npt.NDArray[np.uint8], splits: tuple[str, ...], *, where: str) -> dict[str, ShardTable]:
    """Return the tables by split, as views of `content`, whose checksum the caller has compared.

    Raises DataError if it is another kind of file.
    """
    try:
        reader = pa.ipc.open_file(pa.py_buffer(content))
        if reader.schema != _SCHEMA or reader.num_record_batches != len(splits):
            raise DataError(f"{where}: not an index of shards: prepare the data again")
        tables = {split: _table(reader.get_batch(number)) for number, split in enumerate(splits)}
    except pa.ArrowException as error:
        raise DataError(f"{where}: not an index of shards ({error}): prepare the data again") from None
    return tables


def _arrow_batch(split: str, table: ShardTable) -> Any:
    shards, batches = table.columns, table.batches
    children = [
        *(pa.array(column) for column in batches.counts.values()),
        pa.array(batches.first_token),
        _checksum_array(batches.checksums),
    ]
    lists = pa.ListArray.from_arrays(
        pa.array(shards.first_batches, pa.int32()), pa.StructArray.from_arrays(children, fields=list(_BATCH))
    )
    columns = [pa.array([split] * len(table), pa.string()), shards.files]
    columns += [pa.array(column) for column in shards.counts.values()]
    return pa.record_batch([*columns, _checksum_array(shards.checksums), lists], schema=_SCHEMA)


def _table(batch: Any) -> ShardTable:
    lists = batch.column("record_batches")
    values = lists.values
    batch_columns = {field.name: values.field(number) for number, field in enumerate(_BATCH)}
    checksums = batch_columns.pop("checksum")
    first_token = _ints(batch_columns.pop("first_token"))
    counts = [field.name for field in _SCHEMA if field.type == pa.int64()]
    return ShardTable(
        ShardColumns(
            files=batch.column("file"),
            counts={name: _ints(batch.column(name)) for name in counts},
            checksums=_checksums(batch.column("checksum")),
            first_batches=np.frombuffer(lists.buffers()[1] or b"", np.int32)[: len(batch) + 1].astype(np.int64),
        ),
        BatchColumns(
            first_token=first_token,
            counts={name: _ints(column) for name, column in batch_columns.items()},
            checksums=_checksums(checksums),
        ),
    )


def _ints(array: Any) -> npt.NDArray[np.int64]:
    # Arrow's own to_numpy would import pandas, where it is installed: 30 MB for nothing.
    return np.frombuffer(array.buffers()[1] or b"", np.int64)[: len(array)]


def _checksum_array(checksums: npt.NDArray[np.uint8]) -> Any:
    return pa.Array.from_buffers(_CHECKSUM, len(checksums), [None, pa.py_buffer(checksums.tobytes())])


def _checksums(array: Any) -> npt.NDArray[np.uint8]:
    return np.frombuffer(array.buffers()[1] or b"", np.uint8)[: 16 * len(array)].reshape(-1, 16)
