"""`llama-dist data inspect`: what is in a split, in numbers and in a few decoded documents. Changes nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    counts, sampled = _read(directory, manifest, split, wanted)
    tokenizer = Tokenizer.load(directory / TOKENIZER_NAME)
    return SplitSummary(
        split=split,
        num_shards=len(shards),
        num_documents=num_documents,
        num_tokens=int(counts.sum()),
        num_text_bytes=sum(shard.num_text_bytes for shard in shards),
        num_shard_bytes=sum(shard.num_bytes for shard in shards),
        vocabulary_size=manifest.tokenizer.vocabulary_size,
        unigram_entropy_nats=entropy_nats(counts),
        samples=[tokenizer.decode(tokens)[:sample_characters] for tokens in sampled],
    )


def entropy_nats(counts: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> float:
    """Return the entropy of the distribution that int64 [ids] `counts` make, in nats."""
    present = counts[counts > 0].astype(np.float64)
    shares = present / present.sum()
    return float(-(shares * np.log(shares)).sum())


def _read(
    directory: Path, manifest: Manifest, split: Split, wanted: set[int]
) -> tuple["np.ndarray[tuple[int], np.dtype[np.int64]]", list[list[int]]]:
    """Count each id of the split, and pick the documents numbered in `wanted`."""
    counts = np.zeros(manifest.tokenizer.vocabulary_size, dtype=np.int64)
    sampled: list[list[int]] = []
    first = 0
    for shard in manifest.shards(split):
        for batch in read_batches(directory / shard.file):
            found = np.bincount(batch.tokens, minlength=len(counts))
            if len(found) > len(counts):
                raise DataError(
                    f"{directory / shard.file}: id {len(found) - 1}, the vocabulary is 0..{len(counts) - 1}: "
                    "run `llama-dist data verify`"
                )
            counts += found
            num_documents = len(batch.bounds) - 1
            for number in [number for number in sorted(wanted) if first <= number < first + num_documents]:
                start, end = batch.bounds[number - first], batch.bounds[number - first + 1]
                sampled.append(batch.tokens[start:end].tolist())
            first += num_documents
    return counts, sampled
