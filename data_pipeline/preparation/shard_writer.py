"""Writes one Arrow IPC file of tokenized documents, and reports where everything in it lies.

One row a document. The same documents give the same bytes. Reads no text and knows no manifest file.
"""

import io
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from data_pipeline.durable_file import checksum_file, open_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import SHARDS_NAME, RecordBatchEntry, ShardEntry

DOCUMENT_ID_BYTES = 16
# A cache line, and what Arrow recommends. pyarrow itself writes buffers at multiples of 8.
_ALIGNMENT_BYTES = 64
_ARROW_MAGIC = b"ARROW1"
# Arrow's file format starts with the magic, padded to 8 bytes, and then the schema message.
_MAGIC_BYTES = 8


def shard_schema(token_dtype: str) -> Any:
    """Return the Arrow schema of a shard with ids of `token_dtype`."""
    return pa.schema(
        [("tokens", pa.list_(pa.from_numpy_dtype(np.dtype(token_dtype)))), ("doc_id", pa.binary(DOCUMENT_ID_BYTES))]
    )


class ShardWriter:
    """Collects documents into record batches. The file appears, whole and synced, when the block ends well."""

    def __init__(self, directory: Path, name: str, *, token_dtype: str, tokens_per_record_batch: int) -> None:
        self.num_tokens = 0
        self._path = directory / SHARDS_NAME / name
        self._schema = shard_schema(token_dtype)
        self._token_dtype = np.dtype(token_dtype)
        self._tokens_per_record_batch = tokens_per_record_batch
        self._tokens: list[npt.NDArray[Any]] = []
        self._document_ids: list[bytes] = []
        self._num_batch_tokens = 0
        self._line = np.empty(0, self._token_dtype)
        self._num_documents = 0
        self._num_text_bytes = 0
        self._opening = open_durably(self._path)
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._padding = _metadata_bytes_by_padding(self._schema)

    def __enter__(self) -> "ShardWriter":
        self._file = self._opening.__enter__()
        self._writer = pa.ipc.new_file(self._file, self._schema)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
                self._writer.close()
        except BaseException as fault:
            self._opening.__exit__(type(fault), fault, fault.__traceback__)
            raise
        self._opening.__exit__(kind, error, trace)

    def append(self, tokens: npt.NDArray[Any], document_id: bytes, num_text_bytes: int) -> None:
        """Add one document: `tokens` int [any length], already within the id width."""
        self._tokens.append(tokens.astype(self._token_dtype, copy=False))
        self._document_ids.append(document_id)
        self._num_batch_tokens += len(tokens)
        self.num_tokens += len(tokens)
        self._num_documents += 1
        self._num_text_bytes += num_text_bytes
        if self._num_batch_tokens >= self._tokens_per_record_batch:
            self._flush()

    def entry(self) -> ShardEntry:
        """Describe the finished file, from the file itself."""
        return ShardEntry(
            file=f"{SHARDS_NAME}/{self._path.name}",
            num_bytes=self._path.stat().st_size,
            num_documents=self._num_documents,
            num_tokens=self.num_tokens,
            num_text_bytes=self._num_text_bytes,
            checksum=checksum_file(self._path),
            record_batches=read_record_batch_entries(self._path),
        )

    def _flush(self) -> None:
        if not self._document_ids:
            return
        lengths = [len(tokens) for tokens in self._tokens]
        bounds = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int32)
        columns = [
            pa.ListArray.from_arrays(pa.array(bounds), pa.array(self._gather())),
            pa.array(self._document_ids, pa.binary(DOCUMENT_ID_BYTES)),
        ]
        batch = pa.record_batch(columns, schema=self._schema)
        bounds_bytes = -(-bounds.nbytes // 8) * 8
        try:
            self._writer.write_batch(batch, custom_metadata=self._padding_metadata(bounds_bytes))
        except pa.ArrowException as error:
            raise StorageError(f"{self._path}: cannot be written: {error}") from None
        self._tokens, self._document_ids, self._num_batch_tokens = [], [], 0

    def _gather(self) -> npt.NDArray[Any]:
        """Put the waiting tokens end to end, in the memory of the batch before: fresh pages cost more than the copy."""
        num_tokens = self._num_batch_tokens
        if len(self._line) < num_tokens:
            # An eighth of room: batches end with a document, so their lengths differ a little.
            self._line = np.empty(num_tokens + num_tokens // 8, self._token_dtype)
        return np.concatenate(self._tokens, out=self._line[:num_tokens])

    def _padding_metadata(self, bytes_before_tokens: int) -> dict[str, str]:
        """Choose the padding that puts the tokens at a multiple of 64 bytes in the file."""
        assert self._file is not None
        # Nothing is written before the first batch; the schema goes ahead of it.
        start = self._file.tell() or _MAGIC_BYTES + self._schema.serialize().size
        for padding, metadata_bytes in self._padding.items():
            if (start + metadata_bytes + bytes_before_tokens) % _ALIGNMENT_BYTES == 0:
                return {"padding": "." * padding}
        raise AssertionError("Arrow messages are padded to 8 bytes, so one of eight paddings fits")


def _metadata_bytes_by_padding(schema: Any) -> dict[int, int]:
    """Measure how long the metadata of a record batch is with each padding text; it does not depend on the rows."""
    batch = schema.empty_table().combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
    lengths = {}
    for padding in range(0, _ALIGNMENT_BYTES, 8):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, schema) as writer:
            start = schema.serialize().size
            writer.write_batch(batch[0], custom_metadata={"padding": "." * padding})
            lengths[padding] = sink.tell() - start
    return lengths


def read_record_batch_entries(path: Path) -> list[RecordBatchEntry]:
    """Read from a finished shard where its batches and their buffers lie. Raises DataError if it is no Arrow file."""
    with pa.memory_map(str(path)) as mapped:
        content = mapped.read_buffer(mapped.size())
    view = memoryview(content)
    if bytes(view[: len(_ARROW_MAGIC)]) != _ARROW_MAGIC:
        raise DataError(f"{path}: byte 0 holds {bytes(view[:6])!r}, an Arrow file starts with {_ARROW_MAGIC!r}")
    try:
        reader = pa.ipc.open_file(content)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Arrow file: {error}") from None
    entries: list[RecordBatchEntry] = []
    start = _MAGIC_BYTES + reader.schema.serialize().size
    for batch in batches:
        entry = _describe_batch(batch, start, content.address, view)
        entries.append(entry)
        start += entry.length_bytes
    return entries


def _describe_batch(batch: Any, start: int, base_address: int, view: memoryview) -> RecordBatchEntry:
    bounds, tokens = batch.column(0).buffers()[1], batch.column(0).buffers()[3]
    document_ids = batch.column(1).buffers()[1]
    end = document_ids.address - base_address + -(-document_ids.size // 8) * 8
    return RecordBatchEntry(
        offset_bytes=start,
        length_bytes=end - start,
        num_documents=batch.num_rows,
        num_tokens=len(batch.column(0).values),
        list_offsets_offset_bytes=bounds.address - base_address,
        tokens_offset_bytes=tokens.address - base_address,
        document_ids_offset_bytes=document_ids.address - base_address,
        checksum=xxhash.xxh3_128_hexdigest(view[start:end]),
    )
