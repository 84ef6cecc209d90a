"""The manifest of a prepared dataset: what makes the directory one. Read whole and checked, written last.

Holds records and their file only. The shards themselves are listed in a file of their own (`shard_index.py`), which the
manifest seals; what the shards hold is checked by `verification.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SkipValidation

from data_pipeline.config import ConfigError, PreparationConfig, StrictModel, parse_config
from data_pipeline.durable_file import checksum_bytes, write_durably
from data_pipeline.errors import DataError
from data_pipeline.sealed_json import seal, unseal
from data_pipeline.shard_files import map_file
from data_pipeline.shard_index import Checksum, Count, RecordBatchEntry, ShardEntry, ShardTable, check_table
from data_pipeline.shard_index_file import index_bytes, read_index
from data_pipeline.transforms.counts import TransformCount

__all__ = ["Manifest", "RecordBatchEntry", "ShardEntry", "read_manifest", "write_manifest"]

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "shards.arrow"
TOKENIZER_NAME = "tokenizer.model"
SOURCES_NAME = "sources.jsonl"
SHARDS_NAME = "shards"
PACKS_NAME = "packs"

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

_VERSION = 2
_TOKEN_BYTES = {"uint16": 2, "uint32": 4}
_SEAL_KEY = "manifest_checksum"


class TokenizerEntry(StrictModel):
    """The tokenizer whose ids the shards hold; its file is copied into the dataset directory."""

    checksum: Checksum
    """xxh3_128 of the tokenizer file."""

    vocabulary_size: Annotated[int, Field(ge=1)]
    """Every id is below it."""

    bos_id: int | None
    """Id of the beginning-of-sequence token, if there is one."""

    eos_id: int | None
    """Id of the end-of-sequence token, if there is one."""


class SourcesEntry(StrictModel):
    """What was read; the file lists one input file a line: input number, name, bytes."""

    num_files: Count
    """Input files."""

    num_bytes: Count
    """Bytes of the input files as they lay on disk."""

    checksum: Checksum
    """xxh3_128 of `sources.jsonl`."""


class Manifest(StrictModel):
    """A prepared dataset."""

    format: Literal["llama-dist-dataset"] = "llama-dist-dataset"
    """Tells the file apart from any other manifest.json."""

    version: Literal[2] = 2
    """Version of the format; a reader refuses one that it does not know."""

    fingerprint: Checksum
    """Hash over the ordered shard hashes, the tokenizer and the id width: equal data, equal fingerprint."""

    tokenizer: TokenizerEntry
    """The tokenizer of the ids."""

    token_dtype: Literal["uint16", "uint32"]
    """Width of a stored id: uint32 above 65,536 ids."""

    preparation: PreparationConfig
    """How the text was prepared."""

    preparation_hash: Checksum
    """Hash over the preparation config, the tokenizer and the list of sources."""

    sources: SourcesEntry
    """The input files."""

    num_skipped_empty: Count
    """Documents left out because they held no text."""

    num_skipped_invalid_utf8: Count
    """Documents left out because they were not UTF-8, as asked."""

    transforms: list[TransformCount] = Field(default_factory=list)
    """What each transform of the preparation did, in order."""

    train: Annotated[Sequence[ShardEntry], SkipValidation]
    """Shards of the training split, in the order of their tokens. A read manifest makes the records when asked."""

    validation: Annotated[Sequence[ShardEntry], SkipValidation]
    """Shards of the held-out split, in the order of their tokens."""

    def shards(self, split: Split) -> Sequence[ShardEntry]:
        """Return the shards of `split` in the order of their tokens."""
        return self.train if split == "train" else self.validation

    def all_shards(self) -> list[ShardEntry]:
        """Return the shards of both splits."""
        return [*self.train, *self.validation]

    def table(self, split: Split) -> ShardTable:
        """Return the shards of `split` and their record batches column by column."""
        return ShardTable.of(self.shards(split))


class IndexEntry(StrictModel):
    """The file that lists the shards; in the manifest's place of their two fields."""

    file: Literal["shards.arrow"] = "shards.arrow"
    """Name inside the dataset directory."""

    num_bytes: Count
    """Size of the file."""

    checksum: Checksum
    """xxh3_128 of the file."""


def fingerprint_shards(
    train: Sequence[ShardEntry], validation: Sequence[ShardEntry], tokenizer: TokenizerEntry, token_dtype: str
) -> str:
    """Hash what decides the tokens and their order; where the files lie does not matter."""
    parts = [tokenizer.checksum, token_dtype]
    parts += [shard.checksum for shard in train] + ["validation"] + [shard.checksum for shard in validation]
    return checksum_bytes("\n".join(parts).encode())


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the index of the shards, then the manifest, sealed by its own checksum. The dataset exists from here on."""
    index = index_bytes({split: manifest.table(split) for split in SPLITS})
    entry = IndexEntry(num_bytes=len(index), checksum=checksum_bytes(index))
    values = manifest.model_dump(mode="json", exclude={"train", "validation"})
    write_durably(directory / INDEX_NAME, index)
    write_durably(directory / MANIFEST_NAME, seal(values | {"shard_index": entry.model_dump()}, _SEAL_KEY))


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a dataset and map its index. Raises DataError that says what is wrong with it."""
    path = directory / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{directory}: not a prepared dataset, since {path} is missing: "
            "run `llama-dist data prepare`, again if it was interrupted"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    values = unseal(path, content, _SEAL_KEY, remedy="restore the file or prepare the data again")
    if values.get("version") != _VERSION:
        raise DataError(
            f"{path}: version {values.get('version')!r} of the format, this program reads version {_VERSION}: "
            "prepare the data again, or use the program that wrote it"
        )
    try:
        index = parse_config(IndexEntry, values.pop("shard_index", None) or {}, where=f"{path}: shard_index")
        # The tables are checked on their own: a record for each of thousands of shards would take seconds.
        manifest = parse_config(Manifest, values | {"train": (), "validation": ()}, where=str(path))
    except ConfigError as error:
        raise DataError(str(error)) from None
    return manifest.model_copy(update=_read_tables(directory, index, manifest))


def _read_tables(directory: Path, index: IndexEntry, manifest: Manifest) -> dict[str, ShardTable]:
    path = directory / INDEX_NAME
    content = map_file(path, index.num_bytes)
    seen = checksum_bytes(content.data)
    if seen != index.checksum:
        raise DataError(
            f"{path}: checksum {seen} over {index.num_bytes} bytes, the manifest says {index.checksum}: "
            "restore the file or prepare the data again"
        )
    tables = read_index(content, SPLITS, where=str(path))
    for table in tables.values():
        check_table(table, _TOKEN_BYTES[manifest.token_dtype], where=path)
    return tables
