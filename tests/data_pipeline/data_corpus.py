"""The text that the tests of the data pipeline prepare, and how."""

import random
from pathlib import Path

from data_pipeline.config import PreparationConfig

_SYMBOLS = ["=", ".", "(", ")", "):", "12", "345", "é", "日本", "#", "return", "def", "self", "  "]

# Small units, so that a few hundred kilobytes make several tasks, shards and record batches.
SMALL_PREPARATION = PreparationConfig(
    validation_fraction=0.15, tokens_per_record_batch=3000, shard_bytes=30_000, task_bytes=60_000
)


def write_corpus(folder: Path, *, num_files: int = 60, seed: int = 0) -> Path:
    """Write source-like text files of many lengths."""
    source = random.Random(seed)
    words = ["".join(random.Random(number).choices("abcdefghilmnoprstu", k=2 + number % 7)) for number in range(300)]
    words += _SYMBOLS * 8
    for number in range(num_files):
        lines = []
        for _ in range(source.randrange(1, 160)):
            indentation = source.choice(["", "    ", "        ", "\t"])
            lines.append(indentation + " ".join(source.choices(words, k=source.randrange(1, 12))))
        path = folder / f"part_{number % 7}" / f"file_{number:03d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("\n".join(lines).encode())
    return folder
