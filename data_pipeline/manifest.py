"""The manifest of a prepared dataset: what makes the directory one. Read whole and checked, written last.

Holds records and their file only; what the shards hold is checked by `verification.py`.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from data_pipeline.config import ConfigError, PreparationConfig, StrictModel, parse_config
from data_pipeline.durable_file import checksum_bytes, write_durably
from data_pipeline.errors import DataError

MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.model"
SOURCES_NAME = "sources.jsonl"
SHARDS_NAME = "shards"

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Count = Annotated[int, Field(ge=0)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

# The seal is the last key of the file, so that the bytes before it can be hashed as they are.
_SEAL = b',\n "manifest_checksum": "'


class RecordBatchEntry(StrictModel):
    """Where one record batch lies in its shard, so that a reader needs no Arrow metadata."""

    offset_bytes: Count
    """Start of the batch in the file."""

    length_bytes: Count
    """Length of the batch in the file, metadata and padding included."""

    num_documents: Count
    """Rows of the batch."""

    num_tokens: Count
    """Tokens of all rows together."""

    list_offsets_offset_bytes: Count
    """Start of the int32 buffer that holds the bounds of the documents, one more than documents."""

    tokens_offset_bytes: Count
    """Start of the buffer of token ids, a multiple of 64."""

    document_ids_offset_bytes: Count
    """Start of the buffer of document ids, 16 bytes each."""

    checksum: Checksum
    """xxh3_128 of the batch's bytes: says which batch is damaged."""


class ShardEntry(StrictModel):
    """One Arrow IPC file."""

    file: Annotated[str, Field(pattern=r"^shards/[a-z0-9_-]+\.arrow$")]
    """Path inside the dataset directory."""

    num_bytes: Count
    """Size of the file."""

    num_documents: Count
    """Rows of the file."""

    num_tokens: Count
    """Tokens of the file."""

    num_text_bytes: Count
    """UTF-8 bytes of the text that was tokenized."""

    checksum: Checksum
    """xxh3_128 of the whole file."""

    record_batches: list[RecordBatchEntry]
    """The batches in file order."""


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

    version: Literal[1] = 1
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

    train: list[ShardEntry]
    """Shards of the training split, in the order of their tokens."""

    validation: list[ShardEntry]
    """Shards of the held-out split, in the order of their tokens."""

    def shards(self, split: Split) -> list[ShardEntry]:
        """Return the shards of `split` in the order of their tokens."""
        return self.train if split == "train" else self.validation


def fingerprint_shards(
    train: list[ShardEntry], validation: list[ShardEntry], tokenizer: TokenizerEntry, token_dtype: str
) -> str:
    """Hash what decides the tokens and their order; where the files lie does not matter."""
    parts = [tokenizer.checksum, token_dtype]
    parts += [shard.checksum for shard in train] + ["validation"] + [shard.checksum for shard in validation]
    return checksum_bytes("\n".join(parts).encode())


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, sealed by its own checksum. The dataset exists from here on."""
    body = json.dumps(manifest.model_dump(mode="json"), indent=1).removesuffix("\n}").encode()
    write_durably(directory / MANIFEST_NAME, body + _SEAL + checksum_bytes(body).encode() + b'"\n}\n')


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a dataset. Raises DataError that says what is wrong with it."""
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
    return _parse_manifest(path, content)


def _parse_manifest(path: Path, content: bytes) -> Manifest:
    body, seal, rest = content.rpartition(_SEAL)
    if not seal:
        raise DataError(f"{path}: {len(content)} bytes without the closing checksum: cut off, or of another program")
    seen, needed = checksum_bytes(body), rest[:32].decode("ascii", errors="replace")
    if seen != needed:
        raise DataError(
            f"{path}: damaged or edited: the checksum of bytes 0..{len(body)} is {seen}, "
            f"the one at byte {len(body) + len(seal)} says {needed}: restore the file or prepare the data again"
        )
    values = json.loads(content)
    del values["manifest_checksum"]
    if values.get("version") != 1:
        raise DataError(f"{path}: version {values.get('version')!r} of the format, this program reads version 1")
    try:
        return parse_config(Manifest, values, where=str(path))
    except ConfigError as error:
        raise DataError(str(error)) from None
