"""Reads a pack index: which fragments of the token line make pack number i. Maps it; holds nothing per pack.

A group's bytes are compared with their checksum when the group is first touched. Packs nothing (`pack_dataset.py`).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError
from data_pipeline.manifest import Manifest, Split
from data_pipeline.packing.pack_records import PackRecord, index_path, pack_command, read_record
from data_pipeline.shard_files import map_file

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]


class Pack(NamedTuple):
    """One sequence."""

    starts: Int64
    """int64 [fragments]: place of each fragment's first token in the token line."""

    lengths: Int32
    """int32 [fragments]"""

    is_continued: bool
    """Whether the only fragment fills the sequence and is followed by more of its document."""


class _Group(NamedTuple):
    first_pack: int
    num_continued: int
    bounds: Int32
    starts: Int64
    lengths: Int32


class PackIndex:
    """The packs of one split, mapped."""

    def __init__(self, directory: Path, record: PackRecord) -> None:
        self._path = index_path(directory, record.split, record.sequence_length_tokens)
        self._remedy = f"run `{pack_command(directory, record.sequence_length_tokens)}`"
        self._record_groups = record.groups
        self.fingerprint = checksum_bytes(f"{record.dataset_fingerprint} {record.checksum}".encode())
        """Of the tokens and of how they are packed."""
        self.group_sizes: Int64 = np.array(record.groups.num_packs, dtype=np.int64)
        self.group_bytes: Int64 = np.array(record.groups.num_shard_bytes, dtype=np.int64)
        self._ends = np.cumsum(self.group_sizes)
        self.num_packs = int(self._ends[-1]) if len(self._ends) else 0
        self._groups: dict[int, _Group] = {}
        try:
            self._content = map_file(self._path, record.num_bytes)
        except DataError as error:
            raise DataError(f"{error}\n  {self._remedy}") from None

    def pack(self, number: int) -> Pack:
        """Return pack `number`. Raises DataError where the index is damaged."""
        group_number = int(self._ends.searchsorted(number, side="right"))
        group = self._groups.get(group_number) or self._open_group(group_number)
        place = number - group.first_pack
        first, end = group.bounds[place : place + 2].tolist()
        return Pack(group.starts[first:end], group.lengths[first:end], place < group.num_continued)

    def _open_group(self, number: int) -> _Group:
        groups = self._record_groups
        first, end = groups.bounds_offset_bytes[number], groups.end_bytes[number]
        seen = checksum_bytes(self._content[first:end].data)
        if seen != groups.checksum[number]:
            raise DataError(
                f"{self._path}: damaged: the checksum of bytes {first}..{end} is {seen}, "
                f"its record says {groups.checksum[number]}: {self._remedy}"
            )
        num_packs, num_fragments = groups.num_packs[number], groups.num_fragments[number]
        group = self._groups[number] = _Group(
            first_pack=int(self._ends[number]) - num_packs,
            num_continued=groups.num_continued[number],
            bounds=np.frombuffer(self._content, np.int32, num_packs + 1, first),
            starts=np.frombuffer(self._content, np.int64, num_fragments, groups.starts_offset_bytes[number]),
            lengths=np.frombuffer(self._content, np.int32, num_fragments, groups.lengths_offset_bytes[number]),
        )
        return group


def open_pack_index(directory: Path, manifest: Manifest, split: Split, num_tokens: int) -> PackIndex:
    """Open the index of sequences of `num_tokens`. Raises DataError, with the command to run, if it does not fit."""
    return PackIndex(directory, read_record(directory, manifest, split, num_tokens))
