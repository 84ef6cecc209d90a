"""`llama-dist data pack`: packs the documents of a split, group of shards by group, and writes the index.

The same dataset gives the same bytes. Holds one group in memory at a time. Reads no token, only documents' bounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.durable_file import checksum_bytes, checksum_file, open_durably, write_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import PACKS_NAME, Manifest, Split, read_manifest
from data_pipeline.packing.best_fit import Packs, pack_documents
from data_pipeline.packing.pack_records import PackGroups, PackRecord, index_path, read_record, record_bytes
from data_pipeline.progress import show_progress
from data_pipeline.shard_files import LocalShardFiles, check_shard_size, map_file
from data_pipeline.token_line import TokenLine

# Enough documents of every length that hardly a pack stays half empty; few enough shards to fetch as one.
_LEAST_GROUP_TOKENS = 16 * 1024 * 1024
_SCHEMA = pa.schema([("fragments", pa.list_(pa.struct([("start", pa.int64()), ("length", pa.int32())])))])


@dataclass(frozen=True)
class Packed:
    """The index that is there now."""

    record: PackRecord
    was_there: bool
    """Whether it was there before, fitted, and nothing was done."""


@dataclass(frozen=True)
class _Group:
    """Shards that follow each other, and how their documents are counted."""

    shards: range
    num_shard_bytes: int
    num_documents: int
    num_cut_documents: int
    num_continued: int


def pack_split(
    directory: Path, split: Split, num_tokens: int, *, least_group_tokens: int = _LEAST_GROUP_TOKENS
) -> Packed:
    """Write the index of sequences of `num_tokens`, unless one that fits is there.

    Raises DataError for a damaged dataset, StorageError where the disk refuses.
    """
    manifest = read_manifest(directory)
    for shard in manifest.shards(split):
        check_shard_size(directory, shard)
    try:
        record = read_record(directory, manifest, split, num_tokens)
        if checksum_file(index_path(directory, split, num_tokens)) == record.checksum:
            return Packed(record, was_there=True)
    except (DataError, OSError):
        # Absent, of other data, or damaged: it is written anew, from the dataset alone.
        pass
    return Packed(_write(directory, manifest, split, num_tokens, least_group_tokens), was_there=False)


def _write(directory: Path, manifest: Manifest, split: Split, num_tokens: int, least_group_tokens: int) -> PackRecord:
    path = index_path(directory, split, num_tokens)
    try:
        (directory / PACKS_NAME).mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be made: {error.strerror}") from None
    groups: list[_Group] = []
    with open_durably(path) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for group, packs in _pack_groups(directory, manifest, split, num_tokens, least_group_tokens):
            writer.write_batch(_arrow_batch(packs))
            groups.append(group)
    content = map_file(path, path.stat().st_size)
    record = PackRecord(
        dataset_fingerprint=manifest.fingerprint,
        split=split,
        sequence_length_tokens=num_tokens,
        num_tokens=manifest.table(split).num_tokens,
        num_documents=sum(group.num_documents for group in groups),
        num_cut_documents=sum(group.num_cut_documents for group in groups),
        num_bytes=len(content),
        checksum=checksum_bytes(content.data),
        groups=_describe_groups(content, groups),
    )
    write_durably(path.with_suffix(".json"), record_bytes(record))
    return record


def _pack_groups(
    directory: Path, manifest: Manifest, split: Split, num_tokens: int, least_group_tokens: int
) -> Iterator[tuple[_Group, Packs]]:
    table = manifest.table(split)
    line = TokenLine(table, LocalShardFiles(directory, table), manifest.token_dtype)
    counts = table.columns.counts
    num_bytes = 0
    with show_progress(f"packing {split}", int(counts["num_bytes"].sum())) as progress:
        for shards in group_shards(counts["num_tokens"].tolist(), least_group_tokens):
            first, end = (int(table.columns.first_batches[number]) for number in (shards.start, shards.stop))
            starts, lengths = _documents(line, table.batches.first_token[first:end], range(first, end))
            packs = pack_documents(starts, lengths, num_tokens)
            group_bytes = int(counts["num_bytes"][shards.start : shards.stop].sum())
            num_bytes += group_bytes
            progress.update(num_bytes, num_bytes, 0)
            num_cut = int(np.count_nonzero(lengths > num_tokens))
            yield _Group(shards, group_bytes, len(lengths), num_cut, packs.num_continued), packs


def group_shards(num_tokens: list[int], least_group_tokens: int) -> list[range]:
    """Cut the line of shards of `num_tokens` each into groups of enough tokens; what is left joins the last one."""
    groups: list[range] = []
    first = held = 0
    for number, count in enumerate(num_tokens):
        held += count
        if held >= least_group_tokens:
            groups.append(range(first, number + 1))
            first, held = number + 1, 0
    if first < len(num_tokens):
        start = groups.pop().start if groups else 0
        groups.append(range(start, len(num_tokens)))
    return groups


def _documents(
    line: TokenLine, first_tokens: npt.NDArray[np.int64], batches: range
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the start in the token line, and the length, of each document of `batches`, int64 [documents]."""
    starts, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch, first in zip(batches, first_tokens.tolist(), strict=True):
        bounds = line.document_bounds(batch).astype(np.int64)
        starts.append(bounds[:-1] + first)
        lengths.append(np.diff(bounds))
    return np.concatenate(starts), np.concatenate(lengths)


def _arrow_batch(packs: Packs) -> Any:
    fragments = pa.StructArray.from_arrays(
        [pa.array(packs.starts), pa.array(packs.lengths)], fields=list(_SCHEMA.field("fragments").type.value_type)
    )
    lists = pa.ListArray.from_arrays(pa.array(packs.bounds, pa.int32()), fragments)
    return pa.record_batch([lists], schema=_SCHEMA)


def _describe_groups(content: npt.NDArray[np.uint8], groups: list[_Group]) -> PackGroups:
    """Find in the finished file where the buffers of each group lie."""
    buffer = pa.py_buffer(content)
    reader = pa.ipc.open_file(buffer)
    columns: dict[str, list[Any]] = {name: [] for name in PackGroups.model_fields}
    for number, group in enumerate(groups):
        lists = reader.get_batch(number).column(0)
        _, bounds, _, _, starts, _, lengths = lists.buffers()
        offsets = [part.address - buffer.address for part in (bounds, starts, lengths)]
        end = offsets[2] + lengths.size
        values = (
            len(group.shards),
            group.num_shard_bytes,
            len(lists),
            len(lists.values),
            group.num_continued,
            *offsets,
            end,
            checksum_bytes(content[offsets[0] : end].data),
        )
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return PackGroups(**columns)
