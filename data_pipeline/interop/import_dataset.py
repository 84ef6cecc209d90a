"""`llama-dist data import`: writes the documents of another program's dataset as one of ours, manifest last.

Ids are taken as they are and checked against the vocabulary; text is tokenized. One pass, one process: memory holds a
record batch of either split. The formats are `megatron_files.py` and `mds_files.py`.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.config import PreparationConfig
from data_pipeline.durable_file import checksum_bytes, write_durably
from data_pipeline.errors import DataError
from data_pipeline.interop.imported_corpus import ImportedCorpus, ImportedDocument
from data_pipeline.interop.output_directory import clear_leftovers, hold_output
from data_pipeline.manifest import (
    MANIFEST_NAME,
    SOURCES_NAME,
    SPLITS,
    TOKENIZER_NAME,
    Manifest,
    ShardEntry,
    SourcesEntry,
    Split,
    TokenizerEntry,
    fingerprint_shards,
    read_manifest,
    write_manifest,
)
from data_pipeline.preparation.shard_writer import ShardWriter
from data_pipeline.preparation.task import split_of
from data_pipeline.progress import show_progress
from data_pipeline.tokenizer import Tokenizer

EndOfSequence = Literal["present", "add", "none"]
# Stored bytes of documents that are tokenized together: hides the call, and shows progress often.
_GROUP_BYTES = 1 << 20


@dataclass(frozen=True)
class Imported:
    """The dataset that is there now."""

    manifest: Manifest
    was_there: bool
    """Whether the same import had been done before, and nothing was."""


@dataclass(frozen=True)
class _Import:
    """Everything that decides the result, given the documents."""

    tokenizer: Tokenizer
    config: PreparationConfig
    end_of_sequence: EndOfSequence
    token_dtype: Literal["uint16", "uint32"]
    output: Path


def import_dataset(
    corpus: ImportedCorpus,
    tokenizer_path: Path,
    output: Path,
    *,
    validation_fraction: float = 0.01,
    end_of_sequence: EndOfSequence | None = None,
) -> Imported:
    """Write the documents of `corpus` into a dataset under `output`.

    `end_of_sequence`: whether documents end with the tokenizer's id for it (`present`, checked; the default for ids),
    get it (`add`; the default for text), or neither is promised (`none`). Raises DataError with file and document for
    damaged input and for ids outside the vocabulary, StorageError where the disk refuses.
    """
    tokenizer = Tokenizer.load(tokenizer_path)
    policy: EndOfSequence = end_of_sequence or ("add" if corpus.holds_text else "present")
    if policy != "none" and tokenizer.eos_id is None:
        raise DataError(f"{tokenizer_path}: the tokenizer has no end-of-sequence id: use --eos none")
    work = _Import(
        tokenizer=tokenizer,
        config=PreparationConfig(validation_fraction=validation_fraction, adds_eos=policy != "none"),
        end_of_sequence=policy,
        token_dtype="uint16" if tokenizer.vocabulary_size <= 1 << 16 else "uint32",
        output=output,
    )
    listing = _list_sources(corpus, policy)
    entry = TokenizerEntry(
        checksum=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    values = {"config": work.config.model_dump(mode="json"), "tokenizer": entry.model_dump(mode="json")}
    import_hash = checksum_bytes(json.dumps(values, sort_keys=True).encode() + b"\n" + listing)
    with hold_output(output):
        if (output / MANIFEST_NAME).exists():
            return Imported(_check_same_import(output, import_hash), was_there=True)
        clear_leftovers(output)
        write_durably(output / TOKENIZER_NAME, tokenizer_path.read_bytes())
        shards, num_empty = _write_shards(corpus, work)
        manifest = Manifest(
            fingerprint=fingerprint_shards(shards["train"], shards["validation"], entry, work.token_dtype),
            tokenizer=entry,
            token_dtype=work.token_dtype,
            preparation=work.config,
            preparation_hash=import_hash,
            sources=SourcesEntry(
                num_files=len(corpus.files),
                num_bytes=sum(file.num_bytes for file in corpus.files),
                checksum=checksum_bytes(listing),
            ),
            num_skipped_empty=num_empty,
            num_skipped_invalid_utf8=0,
            train=shards["train"],
            validation=shards["validation"],
        )
        write_durably(output / SOURCES_NAME, listing)
        write_manifest(output, manifest)
    return Imported(manifest, was_there=False)


def _list_sources(corpus: ImportedCorpus, policy: EndOfSequence) -> bytes:
    return b"".join(
        json.dumps(
            {"input": 0, "name": file.name, "bytes": file.num_bytes, "format": corpus.format_name, "eos": policy}
        ).encode()
        + b"\n"
        for file in corpus.files
    )


def _check_same_import(output: Path, import_hash: str) -> Manifest:
    manifest = read_manifest(output)
    if manifest.preparation_hash != import_hash:
        raise DataError(
            f"{output}: holds another dataset, or one of other files or options "
            f"(preparation_hash {manifest.preparation_hash}, asked for {import_hash}): choose another --output"
        )
    return manifest


def _write_shards(corpus: ImportedCorpus, work: _Import) -> tuple[dict[Split, list[ShardEntry]], int]:
    num_empty = num_stored_bytes = num_text_bytes = num_tokens = 0
    with (
        show_progress("importing", sum(file.num_bytes for file in corpus.files)) as progress,
        ExitStack() as stack,
    ):
        series = {split: stack.enter_context(_ShardSeries(work, split)) for split in SPLITS}
        for group in _in_groups(corpus.documents()):
            for document, ids in zip(group, _ids_of(group, work), strict=True):
                num_stored_bytes += document.num_stored_bytes
                bare, tokens = _with_end(document, ids, work)
                if not len(bare):
                    num_empty += 1
                    continue
                text = document.content.encode() if isinstance(document.content, str) else b""
                # Without a text the ids stand for it, in one width and without the end id, so that neither the source
                # nor --eos moves a document between the splits.
                document_id = xxhash.xxh3_128_digest(text or bare.astype("<u4").tobytes())
                split = split_of(document_id, work.config.validation_fraction)
                series[split].append(tokens, document_id, len(text))
                num_text_bytes += len(text)
                num_tokens += len(tokens)
            progress.update(num_stored_bytes, num_text_bytes, num_tokens)
    if not num_tokens:
        raise DataError(f"{corpus.files[0].name}: {num_empty} empty documents and no other: nothing to import")
    return {split: one.entries for split, one in series.items()}, num_empty


def _ids_of(group: list[ImportedDocument], work: _Import) -> list[npt.NDArray[Any]]:
    texts = [document.content for document in group if isinstance(document.content, str)]
    encoded = iter(work.tokenizer.encode_batch(texts) if texts else [])
    return [next(encoded) if isinstance(one.content, str) else _check_ids(one, one.content, work) for one in group]


def _check_ids(document: ImportedDocument, ids: npt.NDArray[Any], work: _Import) -> npt.NDArray[Any]:
    if not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < work.tokenizer.vocabulary_size):
        return ids
    place = int(np.flatnonzero((ids < 0) | (ids >= work.tokenizer.vocabulary_size))[0])
    raise DataError(
        f"{document.place}: id {int(ids[place])} at place {place} of the document, the vocabulary of "
        f"{work.tokenizer.path} is 0..{work.tokenizer.vocabulary_size - 1}: give the tokenizer that made the ids"
    )


def _with_end(
    document: ImportedDocument, ids: npt.NDArray[Any], work: _Import
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the ids without and with what is stored at their end."""
    eos_id = work.tokenizer.eos_id
    ends = bool(len(ids)) and int(ids[-1]) == eos_id
    bare = ids[:-1] if ends else ids
    if work.end_of_sequence == "none" or not len(bare):
        return bare, ids
    if work.end_of_sequence == "present" and not ends:
        raise DataError(
            f"{document.place}: ends with id {int(ids[-1])}, not with the end-of-sequence id {eos_id}: "
            "use --eos add, --eos none, or the tokenizer that made the ids"
        )
    if work.end_of_sequence == "add" and ends:
        raise DataError(f"{document.place}: ends with the end-of-sequence id {eos_id} already: use --eos present")
    return bare, ids if ends else np.append(ids, np.array([eos_id], dtype=work.token_dtype))


def _in_groups(documents: Iterator[ImportedDocument]) -> Iterator[list[ImportedDocument]]:
    group: list[ImportedDocument] = []
    num_bytes = 0
    for document in documents:
        group.append(document)
        num_bytes += document.num_stored_bytes
        if num_bytes >= _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


class _ShardSeries:
    """The shards of one split, one after another."""

    def __init__(self, work: _Import, split: Split) -> None:
        self.entries: list[ShardEntry] = []
        self._work = work
        self._split = split
        self._most_tokens = work.config.shard_bytes // np.dtype(work.token_dtype).itemsize
        self._writer: ShardWriter | None = None

    def append(self, tokens: npt.NDArray[Any], document_id: bytes, num_text_bytes: int) -> None:
        if self._writer is None:
            self._writer = ShardWriter(
                self._work.output,
                f"{self._split}-00000-{len(self.entries):03d}.arrow",
                token_dtype=self._work.token_dtype,
                tokens_per_record_batch=self._work.config.tokens_per_record_batch,
            )
            self._writer.__enter__()
        self._writer.append(tokens, document_id, num_text_bytes)
        if self._writer.num_tokens >= self._most_tokens:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.__exit__(None, None, None)
            self.entries.append(writer.entry())

    def __enter__(self) -> "_ShardSeries":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self._close()
        elif self._writer is not None:
            self._writer.__exit__(kind, error, trace)
