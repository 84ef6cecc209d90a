"""`llama-dist data inspect`: what is in a split, in numbers and in a few decoded documents. Changes nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.document_statistics import DocumentStatistics, LengthSummary, entropy_nats
from data_pipeline.errors import DataError
from data_pipeline.manifest import TOKENIZER_NAME, Manifest, Split, read_manifest
from data_pipeline.shard_files import check_shard_size
from data_pipeline.shard_reader import read_batches
from data_pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class SplitSummary:
    """One split of one dataset."""

    split: str
    num_shards: int
    num_documents: int
    num_tokens: int
    num_text_bytes: int
    num_shard_bytes: int
    vocabulary_size: int
    unigram_entropy_nats: float
    """Loss of a model that knows how often each token occurs in this split, and nothing else."""

    tokens_per_byte: float | None
    """Tokens per UTF-8 byte of text; None where ids were imported, whose text nobody counted."""

    unknown_rate: float
    """Share of the tokens that are the unknown id: text that is lost."""

    byte_fallback_rate: float
    """Share of the tokens that spell one byte, for want of a piece: text that the tokenizer was not trained for."""

    length_tokens: LengthSummary
    """How long documents are."""

    transforms: list[dict[str, Any]]
    """What the preparation's transforms did to the documents of both splits, in their order."""

    samples: list[str]
    """The starts of some documents, spread evenly over the split."""


def inspect_split(directory: Path, split: Split, *, num_samples: int = 3, sample_characters: int = 200) -> SplitSummary:
    """Read a split whole. Raises DataError where the dataset is damaged or the split is empty."""
    manifest = read_manifest(directory)
    shards = manifest.shards(split)
    if not shards:
        raise DataError(
            f"{directory}: the {split} split is empty: prepare more text, or with another --validation-fraction"
        )
    for shard in shards:
        check_shard_size(directory, shard)
    num_documents = sum(shard.num_documents for shard in shards)
    wanted = {number * num_documents // num_samples for number in range(num_samples)}
    statistics, sampled = _read(directory, manifest, split, wanted)
    tokenizer = Tokenizer.load(directory / TOKENIZER_NAME)
    byte_ids = [number for number, piece in enumerate(tokenizer.pieces()) if piece.kind == "byte"]
    counts = statistics.id_counts
    num_tokens, num_text_bytes = int(counts.sum()), sum(shard.num_text_bytes for shard in shards)
    return SplitSummary(
        split=split,
        num_shards=len(shards),
        num_documents=num_documents,
        num_tokens=num_tokens,
        num_text_bytes=num_text_bytes,
        num_shard_bytes=sum(shard.num_bytes for shard in shards),
        vocabulary_size=manifest.tokenizer.vocabulary_size,
        unigram_entropy_nats=entropy_nats(counts),
        tokens_per_byte=num_tokens / num_text_bytes if num_text_bytes else None,
        unknown_rate=float(counts[tokenizer.unk_id]) / num_tokens if tokenizer.unk_id is not None else 0.0,
        byte_fallback_rate=float(counts[byte_ids].sum()) / num_tokens,
        length_tokens=statistics.lengths(),
        transforms=_transforms(manifest),
        samples=[tokenizer.decode(tokens)[:sample_characters] for tokens in sampled],
    )


def _transforms(manifest: Manifest) -> list[dict[str, Any]]:
    return [count.model_dump(mode="json") for count in manifest.transforms]


def _read(
    directory: Path, manifest: Manifest, split: Split, wanted: set[int]
) -> tuple[DocumentStatistics, list[list[int]]]:
    """Count each id and length of the split, and pick the documents numbered in `wanted`."""
    statistics = DocumentStatistics(manifest.tokenizer.vocabulary_size)
    sampled: list[list[int]] = []
    first = 0
    for shard in manifest.shards(split):
        path = directory / shard.file
        for batch in read_batches(path, manifest.token_dtype):
            highest = int(batch.tokens.max(initial=0))
            if highest >= manifest.tokenizer.vocabulary_size:
                raise DataError(
                    f"{path}: id {highest}, the vocabulary is 0..{manifest.tokenizer.vocabulary_size - 1}: "
                    "run `llama-dist data verify`"
                )
            statistics.add(batch.tokens, batch.bounds)
            num_documents = len(batch.bounds) - 1
            for number in [number for number in sorted(wanted) if first <= number < first + num_documents]:
                start, end = batch.bounds[number - first], batch.bounds[number - first + 1]
                sampled.append(batch.tokens[start:end].tolist())
            first += num_documents
    return statistics, sampled
