"""`llama-dist data verify`: reads every byte of a dataset and compares it with the manifest. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.durable_file import checksum_bytes, checksum_file
from data_pipeline.errors import DataError
from data_pipeline.manifest import (
    SOURCES_NAME,
    TOKENIZER_NAME,
    Manifest,
    RecordBatchEntry,
    ShardEntry,
    fingerprint_shards,
    read_manifest,
)
from data_pipeline.preparation.shard_writer import read_record_batch_entries
from data_pipeline.progress import show_progress
from data_pipeline.shard_files import check_shard_size
from data_pipeline.shard_reader import DocumentBatch, read_batches

# Enough to see a pattern; a whole damaged disk would fill the screen.
_MOST_FAULTS_SHOWN = 20


@dataclass(frozen=True)
class Verified:
    """What was read and found whole."""

    num_shards: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    fingerprint: str


def verify_dataset(directory: Path) -> Verified:
    """Check every file of the dataset. Raises DataError that lists the faults, each with its file and place."""
    manifest = read_manifest(directory)
    shards = manifest.all_shards()
    faults = list(_file_faults(directory, manifest))
    num_bytes = 0
    with show_progress("verifying", sum(shard.num_bytes for shard in shards)) as progress:
        for shard in shards:
            faults += _shard_faults(directory, shard, manifest)
            num_bytes += shard.num_bytes
            progress.update(num_bytes, num_bytes, 0)
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:_MOST_FAULTS_SHOWN])
        more = len(faults) - _MOST_FAULTS_SHOWN
        shown += f"\n  and {more} more" if more > 0 else ""
        raise DataError(
            f"{directory}: {len(faults)} fault(s):\n{shown}\n"
            "  restore the files from a copy, or prepare the data again in a new directory"
        )
    return Verified(
        num_shards=len(shards),
        num_documents=sum(shard.num_documents for shard in shards),
        num_tokens=sum(shard.num_tokens for shard in shards),
        num_bytes=num_bytes,
        fingerprint=manifest.fingerprint,
    )


def _file_faults(directory: Path, manifest: Manifest) -> Iterator[str]:
    for name, needed in ((TOKENIZER_NAME, manifest.tokenizer.checksum), (SOURCES_NAME, manifest.sources.checksum)):
        path = directory / name
        try:
            seen = checksum_file(path)
        except OSError as error:
            yield f"{path}: cannot be read: {error.strerror}"
            continue
        if seen != needed:
            yield f"{path}: checksum {seen} over {path.stat().st_size} bytes, the manifest says {needed}"
    fingerprint = fingerprint_shards(manifest.train, manifest.validation, manifest.tokenizer, manifest.token_dtype)
    if fingerprint != manifest.fingerprint:
        yield f"{directory}: fingerprint {fingerprint} of the listed shards, the manifest says {manifest.fingerprint}"


def _shard_faults(directory: Path, shard: ShardEntry, manifest: Manifest) -> Iterator[str]:
    path = directory / shard.file
    try:
        check_shard_size(directory, shard)
        seen = checksum_file(path)
        if seen != shard.checksum:
            yield f"{path}: checksum {seen} over {shard.num_bytes} bytes, the manifest says {shard.checksum}"
            yield from _damaged_ranges(path, shard)
            return
        yield from _content_faults(path, shard, manifest)
    except DataError as error:
        yield str(error)
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror}"


def _damaged_ranges(path: Path, shard: ShardEntry) -> Iterator[str]:
    """Narrow the damage down to record batches, which have checksums of their own."""
    whole = True
    with path.open("rb") as file:
        for number, batch in enumerate(shard.record_batches):
            file.seek(batch.offset_bytes)
            if checksum_bytes(file.read(batch.length_bytes)) != batch.checksum:
                whole = False
                end = batch.offset_bytes + batch.length_bytes
                yield f"{path}: record batch {number} differs, somewhere in bytes {batch.offset_bytes}..{end}"
    if whole:
        yield f"{path}: all record batches are whole: the damage is in the header or after the last batch"


def _content_faults(path: Path, shard: ShardEntry, manifest: Manifest) -> Iterator[str]:
    if read_record_batch_entries(path) != shard.record_batches:
        yield f"{path}: its record batches lie elsewhere than the manifest says"
        return
    num_documents = num_tokens = 0
    for number, (entry, batch) in enumerate(zip(shard.record_batches, read_batches(path), strict=True)):
        for fault in _batch_faults(entry, batch, manifest):
            yield f"{path}: record batch {number} at byte {entry.offset_bytes}: {fault}"
        num_documents += len(batch.bounds) - 1
        num_tokens += len(batch.tokens)
    if (num_documents, num_tokens) != (shard.num_documents, shard.num_tokens):
        yield (
            f"{path}: {num_documents} documents and {num_tokens} tokens, "
            f"the manifest says {shard.num_documents} and {shard.num_tokens}"
        )


def _batch_faults(entry: RecordBatchEntry, batch: DocumentBatch, manifest: Manifest) -> Iterator[str]:
    vocabulary_size = manifest.tokenizer.vocabulary_size
    if batch.tokens.dtype != np.dtype(manifest.token_dtype):
        yield f"ids are {batch.tokens.dtype}, the manifest says {manifest.token_dtype}"
        return
    if len(batch.tokens) and int(batch.tokens.max()) >= vocabulary_size:
        place = int(np.argmax(batch.tokens >= vocabulary_size))
        byte = entry.tokens_offset_bytes + place * batch.tokens.itemsize
        yield f"id {batch.tokens[place]} at byte {byte}, the vocabulary is 0..{vocabulary_size - 1}"
    if batch.bounds[0] != 0 or batch.bounds[-1] != len(batch.tokens) or bool((np.diff(batch.bounds) <= 0).any()):
        yield f"the documents' bounds do not rise from 0 to {len(batch.tokens)}"
    elif manifest.preparation.adds_eos and bool(
        (batch.tokens[batch.bounds[1:] - 1] != manifest.tokenizer.eos_id).any()
    ):
        yield f"a document does not end with the id {manifest.tokenizer.eos_id}, as the manifest says"
