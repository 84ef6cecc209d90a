"""The record that seals a pack index: which data it packs, and where its groups lie in the Arrow file beside it."""

from pathlib import Path
from typing import Literal

from data_pipeline.config import ConfigError, StrictModel, parse_config
from data_pipeline.errors import DataError
from data_pipeline.manifest import PACKS_NAME, Manifest, Split
from data_pipeline.sealed_json import seal, unseal
from data_pipeline.shard_index import Checksum, Count

_VERSION = 1
_SEAL_KEY = "packs_checksum"


class PackGroups(StrictModel):
    """The groups column by column: each packs the documents of some shards that follow each other."""

    num_shards: list[Count]
    """Shards of the group."""

    num_shard_bytes: list[Count]
    """Bytes of these shards."""

    num_packs: list[Count]
    """Sequences of the group."""

    num_fragments: list[Count]
    """Documents, and pieces of documents, in these sequences."""

    num_continued: list[Count]
    """Sequences at the front of the group that are a piece of a document that goes on."""

    bounds_offset_bytes: list[Count]
    """Start in the Arrow file of the int32 buffer of the packs' bounds, one more than packs."""

    starts_offset_bytes: list[Count]
    """Start of the int64 buffer of the fragments' first tokens in the token line."""

    lengths_offset_bytes: list[Count]
    """Start of the int32 buffer of the fragments' lengths."""

    end_bytes: list[Count]
    """End of the group's last buffer."""

    checksum: list[Checksum]
    """xxh3_128 of the bytes from the start of the bounds to the end."""


class PackRecord(StrictModel):
    """What `packs/SPLIT-T.json` holds."""

    format: Literal["llama-dist-packs"] = "llama-dist-packs"
    """Tells the file apart."""

    version: Literal[1] = 1
    """Version of the format and of the way to pack."""

    dataset_fingerprint: Checksum
    """Fingerprint of the dataset whose documents are packed."""

    split: Split
    """The split."""

    sequence_length_tokens: Count
    """Tokens of a sequence."""

    num_tokens: Count
    """Tokens of the split, each in one pack."""

    num_documents: Count
    """Documents of the split."""

    num_cut_documents: Count
    """Documents longer than a sequence, which are in several packs."""

    num_bytes: Count
    """Size of the Arrow file."""

    checksum: Checksum
    """xxh3_128 of the Arrow file."""

    groups: PackGroups
    """The groups in the order of their tokens."""

    @property
    def num_packs(self) -> int:
        """Sequences of the split."""
        return sum(self.groups.num_packs)

    @property
    def num_padding_tokens(self) -> int:
        """Places of the sequences that no token fills."""
        return self.num_packs * self.sequence_length_tokens - self.num_tokens


def index_path(directory: Path, split: Split, num_tokens: int) -> Path:
    """Return the path of the Arrow file; the record lies beside it, with the suffix `.json`."""
    return directory / PACKS_NAME / f"{split}-{num_tokens}.arrow"


def pack_command(directory: Path, num_tokens: int) -> str:
    """Return the command that writes the index."""
    return f"llama-dist data pack {directory} --sequence-length {num_tokens}"


def record_bytes(record: PackRecord) -> bytes:
    """Return the content of the record's file."""
    return seal(record.model_dump(mode="json"), _SEAL_KEY)


def read_record(directory: Path, manifest: Manifest, split: Split, num_tokens: int) -> PackRecord:
    """Read the record and compare it with the dataset. Raises DataError, with the command that writes a good one."""
    path = index_path(directory, split, num_tokens).with_suffix(".json")
    remedy = f"run `{pack_command(directory, num_tokens)}`"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: no pack index of {num_tokens} tokens ({error.strerror}): {remedy}") from None
    values = unseal(path, content, _SEAL_KEY, remedy=remedy)
    if values.get("version") != _VERSION:
        raise DataError(f"{path}: version {values.get('version')!r}, this program reads version {_VERSION}: {remedy}")
    try:
        record = parse_config(PackRecord, values, where=str(path))
    except ConfigError as error:
        raise DataError(f"{error}\n  {remedy}") from None
    seen = (record.dataset_fingerprint, record.split, record.sequence_length_tokens)
    needed = (manifest.fingerprint, split, num_tokens)
    if seen != needed:
        raise DataError(f"{path}: packs the data {seen}, the dataset is {needed}: {remedy}")
    return record
