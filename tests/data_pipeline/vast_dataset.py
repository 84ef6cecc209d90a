"""Makes a dataset of any size out of one sparse shard under many names, and measures a stream over it.

Run as a program, in a process of its own: DIRECTORY, then one JSON object with seconds and bytes on stdout. With
DIRECTORY TOKENIZER SHARDS BATCHES TOKENS it writes the dataset instead (`benchmarks/data_memory.py`).
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.config import DataConfig, PreparationConfig, SourceConfig
from data_pipeline.durable_file import checksum_file
from data_pipeline.manifest import Manifest, SourcesEntry, TokenizerEntry, write_manifest
from data_pipeline.shard_index import BatchColumns, ShardColumns, ShardTable
from data_pipeline.stream import open_stream

NUM_BATCH_TOKENS = 4_000_000
NUM_SHARD_BATCHES = 32


def write_vast_dataset(
    directory: Path,
    tokenizer: Path,
    *,
    num_shards: int,
    num_shard_batches: int = NUM_SHARD_BATCHES,
    num_batch_tokens: int = NUM_BATCH_TOKENS,
) -> int:
    """Write shards of one document a record batch, all ids 0, each a hard link of one file; return the tokens."""
    (directory / "shards").mkdir(parents=True)
    (directory / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    starts = 512 + np.arange(num_shard_batches, dtype=np.int64) * (2 * num_batch_tokens + 1024)
    num_bytes = int(starts[-1]) + 2 * num_batch_tokens + 1024
    original = directory / "shards" / "train-00000-000.arrow"
    with original.open("wb") as file:
        file.write(b"ARROW1")
        for start in starts.tolist():
            file.seek(start)
            file.write(np.array([0, num_batch_tokens], dtype=np.int32).tobytes())
        file.truncate(num_bytes)
    names = [f"shards/train-{number:05d}-000.arrow" for number in range(num_shards)]
    for name in names[1:]:
        os.link(original, directory / name)
    table = _table(names, starts, num_bytes, num_batch_tokens)
    write_manifest(
        directory,
        Manifest(
            fingerprint="0" * 32,
            tokenizer=TokenizerEntry(checksum=checksum_file(tokenizer), vocabulary_size=512, bos_id=1, eos_id=2),
            token_dtype="uint16",
            preparation=PreparationConfig(),
            preparation_hash="0" * 32,
            sources=SourcesEntry(num_files=1, num_bytes=1, checksum="0" * 32),
            num_skipped_empty=0,
            num_skipped_invalid_utf8=0,
            train=table,
            validation=[],
        ),
    )
    return table.num_tokens


def _table(names: list[str], starts: np.ndarray, num_bytes: int, num_batch_tokens: int) -> ShardTable:
    num_batches = len(names) * len(starts)
    tokens = np.full(num_batches, num_batch_tokens, dtype=np.int64)
    places = np.tile(starts, len(names))
    shard_counts = {
        "num_bytes": num_bytes,
        "num_documents": len(starts),
        "num_tokens": len(starts) * num_batch_tokens,
        "num_text_bytes": 4 * len(starts) * num_batch_tokens,
    }
    return ShardTable(
        ShardColumns(
            files=pa.array(names, pa.string()),
            counts={name: np.full(len(names), count, dtype=np.int64) for name, count in shard_counts.items()},
            checksums=np.zeros((len(names), 16), dtype=np.uint8),
            first_batches=np.arange(len(names) + 1, dtype=np.int64) * len(starts),
        ),
        BatchColumns(
            first_token=np.cumsum(tokens) - tokens,
            counts={
                "offset_bytes": places,
                "length_bytes": tokens * 2 + 512,
                "num_documents": np.ones(num_batches, dtype=np.int64),
                "num_tokens": tokens,
                "list_offsets_offset_bytes": places,
                "tokens_offset_bytes": places + 8,
                "document_ids_offset_bytes": places + 8 + 2 * tokens,
            },
            checksums=np.zeros((num_batches, 16), dtype=np.uint8),
        ),
    )


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def measure(directory: Path) -> dict[str, float]:
    """Open the stream, then read steps all over it."""
    config = DataConfig(
        sources=[SourceConfig(path=str(directory))], sequence_length_tokens=2048, isolate_documents=True
    )
    before = anonymous_bytes()
    open_seconds, read_seconds = [], []
    for _ in range(5):
        # Processor time: nothing here waits, and the tests of others must not count.
        start = time.process_time()
        stream = open_stream(config)
        open_seconds.append(time.process_time() - start)
    for step in range(200):
        consumed = step * (stream.num_sequences // 100)
        start = time.perf_counter()
        stream.micro_batches(consumed, dp_rank=0, dp_size=1, micro_batch_sequences=8, num_micro_batches=1)
        read_seconds.append(time.perf_counter() - start)
    return {
        "num_tokens": stream.num_sequences * 2048,
        "open_seconds": min(open_seconds),
        "read_seconds": sorted(read_seconds)[100],
        "num_anonymous_bytes": anonymous_bytes() - before,
    }


if __name__ == "__main__":
    if len(sys.argv) > 2:
        shards, batches, tokens = map(int, sys.argv[3:])
        write_vast_dataset(
            Path(sys.argv[1]),
            Path(sys.argv[2]),
            num_shards=shards,
            num_shard_batches=batches,
            num_batch_tokens=tokens,
        )
    else:
        print(json.dumps(measure(Path(sys.argv[1]))))
