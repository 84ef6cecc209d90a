"""Finds what is wrong with a dataset's pack indexes: other data, damage, tokens packed twice or not at all."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.durable_file import checksum_file
from data_pipeline.errors import DataError
from data_pipeline.manifest import PACKS_NAME, SPLITS, Manifest, Split
from data_pipeline.packing.pack_index import Pack, PackIndex
from data_pipeline.packing.pack_records import index_path, pack_command, read_record
from data_pipeline.shard_files import LocalShardFiles
from data_pipeline.token_line import TokenLine

Int64 = npt.NDArray[np.int64]

_RECORD_NAME = re.compile(r"^(?P<split>train|validation)-(?P<length>[1-9]\d*)\.json$")


def pack_faults(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield every fault of the indexes under `packs/`, each with its file. Without that folder there is none."""
    for path in sorted((directory / PACKS_NAME).glob("*.json")):
        name = _RECORD_NAME.match(path.name)
        if name is None:
            continue
        split: Split = next(one for one in SPLITS if one == name["split"])
        try:
            yield from _index_faults(directory, manifest, split, int(name["length"]))
        except DataError as error:
            yield str(error)


def pack_files(directory: Path) -> set[str]:
    """Return the files of pack indexes that are complete, as paths inside the dataset."""
    records = [path for path in (directory / PACKS_NAME).glob("*.json") if _RECORD_NAME.match(path.name)]
    return {f"{PACKS_NAME}/{path.stem}{suffix}" for path in records for suffix in (".json", ".arrow")}


def _index_faults(directory: Path, manifest: Manifest, split: Split, length: int) -> Iterator[str]:
    record = read_record(directory, manifest, split, length)
    path, remedy = index_path(directory, split, length), f"run `{pack_command(directory, length)}`"
    index = PackIndex(directory, record)
    seen = checksum_file(path)
    if seen != record.checksum:
        yield f"{path}: checksum {seen} over {record.num_bytes} bytes, its record says {record.checksum}: {remedy}"
        return
    table = manifest.table(split)
    if (record.num_tokens, sum(record.groups.num_shards)) != (table.num_tokens, len(table)):
        yield (
            f"{path}: packs {record.num_tokens} tokens of {sum(record.groups.num_shards)} shards, "
            f"the manifest has {table.num_tokens} of {len(table)}: {remedy}"
        )
        return
    line = TokenLine(table, LocalShardFiles(directory, table), manifest.token_dtype)
    first_batches = table.columns.first_batches
    first_pack = first_shard = 0
    for group, (num_packs, num_shards) in enumerate(
        zip(record.groups.num_packs, record.groups.num_shards, strict=True)
    ):
        batches = range(int(first_batches[first_shard]), int(first_batches[first_shard + num_shards]))
        packs = [index.pack(number) for number in range(first_pack, first_pack + num_packs)]
        for fault in group_faults(packs, _document_ends(line, table.batches.first_token, batches), length):
            yield f"{path}: group {group} at byte {record.groups.bounds_offset_bytes[group]}: {fault}: {remedy}"
        first_pack, first_shard = first_pack + num_packs, first_shard + num_shards


def _document_ends(line: TokenLine, first_tokens: Int64, batches: range) -> Int64:
    """Return where each document of these record batches ends in the token line, after where the first one starts."""
    ends = [line.document_bounds(batch)[1:].astype(np.int64) + int(first_tokens[batch]) for batch in batches]
    start = [int(first_tokens[batches.start])] if len(batches) else []
    return np.concatenate([np.array(start, dtype=np.int64), *ends])


def group_faults(packs: list[Pack], document_ends: Int64, num_tokens: int) -> Iterator[str]:
    """Yield what is wrong with the packs of a group; int64 `document_ends` starts with the group's first token."""
    longest = max((int(pack.lengths.sum()) for pack in packs), default=0)
    if longest > num_tokens:
        yield f"a sequence has {longest} tokens, at most {num_tokens} fit"
    starts = np.concatenate([pack.starts for pack in packs]) if packs else np.empty(0, np.int64)
    lengths = np.concatenate([pack.lengths for pack in packs]).astype(np.int64) if packs else np.empty(0, np.int64)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], (starts + lengths)[order]
    # Sorted by start, the fragments must follow each other without a gap from the first token to the last.
    bounds = np.concatenate((document_ends[:1], ends))
    wrong = np.flatnonzero(np.append(starts, document_ends[-1:]) != bounds)
    if len(wrong):
        yield f"token {int(bounds[wrong[0]])} of the split is packed twice or not at all"
        return
    crossing = np.flatnonzero(document_ends[np.searchsorted(document_ends, starts, side="right")] < ends)
    if len(crossing):
        yield f"the fragment at token {int(starts[crossing[0]])} goes past the end of its document"
