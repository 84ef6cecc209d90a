"""Finds what is wrong with one shard, from its size to its last id. Changes nothing.

A shard whose checksum differs is not parsed: its damage is narrowed down by the checksums of its record batches.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.durable_file import checksum_bytes, checksum_file
from data_pipeline.errors import DataError
from data_pipeline.manifest import Manifest, RecordBatchEntry, ShardEntry
from data_pipeline.preparation.shard_writer import read_record_batch_entries
from data_pipeline.shard_files import check_shard_size
from data_pipeline.shard_reader import DocumentBatch, read_batches


def shard_faults(directory: Path, shard: ShardEntry, manifest: Manifest) -> Iterator[str]:
    """Yield every fault of a shard, each with its file and place."""
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
    # Read through first: where the columns or the rows are not those of a shard, their buffers lie nowhere.
    counts = [(len(batch.bounds) - 1, len(batch.tokens)) for batch in read_batches(path, manifest.token_dtype)]
    if not counts:
        yield f"{path}: zero rows: a shard holds at least one document"
        return
    if read_record_batch_entries(path) != shard.record_batches:
        yield f"{path}: its record batches lie elsewhere than the manifest says"
        return
    batches = zip(shard.record_batches, read_batches(path, manifest.token_dtype), strict=True)
    for number, (entry, batch) in enumerate(batches):
        for fault in _batch_faults(entry, batch, manifest):
            yield f"{path}: record batch {number} at byte {entry.offset_bytes}: {fault}"
    num_documents, num_tokens = (sum(column) for column in zip(*counts, strict=True))
    if (num_documents, num_tokens) != (shard.num_documents, shard.num_tokens):
        yield (
            f"{path}: {num_documents} documents and {num_tokens} tokens, "
            f"the manifest says {shard.num_documents} and {shard.num_tokens}"
        )


def _batch_faults(entry: RecordBatchEntry, batch: DocumentBatch, manifest: Manifest) -> Iterator[str]:
    vocabulary_size = manifest.tokenizer.vocabulary_size
    if len(batch.tokens) and int(batch.tokens.max()) >= vocabulary_size:
        place = int(np.argmax(batch.tokens >= vocabulary_size))
        byte = entry.tokens_offset_bytes + place * batch.tokens.itemsize
        yield f"id {batch.tokens[place]} at byte {byte}, the vocabulary is 0..{vocabulary_size - 1}"
    if batch.bounds[0] != 0 or batch.bounds[-1] != len(batch.tokens) or bool((np.diff(batch.bounds) <= 0).any()):
        yield f"the documents' bounds do not rise from 0 to {len(batch.tokens)}"
        return
    preparation, tokenizer = manifest.preparation, manifest.tokenizer
    if preparation.adds_eos and bool((batch.tokens[batch.bounds[1:] - 1] != tokenizer.eos_id).any()):
        yield f"a document does not end with the id {tokenizer.eos_id}, as the manifest says"
    if preparation.adds_bos and bool((batch.tokens[batch.bounds[:-1]] != tokenizer.bos_id).any()):
        yield f"a document does not begin with the id {tokenizer.bos_id}, as the manifest says"
