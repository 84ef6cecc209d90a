"""What one stream costs, measured in a process of its own: DIRECTORY, then one JSON object on stdout.

Milliseconds, wall clock, medians over many positions; bytes of memory that no file backs, beyond what imports took.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipeline.config import DataConfig, SourceConfig
from data_pipeline.stream import TokenStream, open_stream

ROWS, LENGTH = 8, 2048
NUM_BATCHES = 200
NUM_OPENINGS = 15
NUM_POSITIONS = 100


def main(directory: Path) -> None:
    """Open, read, and print."""
    config = DataConfig(
        sources=[SourceConfig(path=str(directory))], sequence_length_tokens=LENGTH, isolate_documents=True
    )
    before = anonymous_bytes()
    opening, stream = milliseconds(lambda: open_stream(config))
    positions = [step * (stream.num_sequences // NUM_BATCHES) for step in range(NUM_BATCHES)]
    for position in positions:
        read(stream, position)
    memory = anonymous_bytes() - before
    print(json.dumps({"first_opening_ms": opening, "anonymous_bytes": memory} | times(config, stream)))


def times(config: DataConfig, stream: TokenStream) -> dict[str, float]:
    """Everything but the memory."""
    resumed = int(0.9 * stream.num_sequences) // ROWS * ROWS
    state = stream.state(resumed)
    openings, checks, resumes = [], [], []
    for _ in range(NUM_OPENINGS):
        seconds, fresh = milliseconds(lambda: open_stream(config))
        openings.append(seconds)
        seconds, _ = milliseconds(lambda fresh=fresh: fresh.check_state(state))
        checks.append(seconds)
        seconds, _ = milliseconds(lambda fresh=fresh: read(fresh, resumed))
        resumes.append(checks[-1] + seconds)
    chosen = random.Random(0)  # noqa: S311 - positions, no secret
    anywhere = [chosen.randrange(stream.num_sequences) // ROWS * ROWS for _ in range(NUM_POSITIONS)]
    orders = [milliseconds(lambda at=at: locate(stream, at))[0] for at in anywhere]
    batches = [milliseconds(lambda at=at: read(stream, at))[0] for at in anywhere]
    return {
        "num_tokens": stream.num_sequences * LENGTH,
        "opening_ms": statistics.median(openings),
        "order_ms": statistics.median(orders),
        "far_batch_ms": statistics.median(batches),
        "resume_opened_ms": statistics.median(resumes),
        "resume_ms": statistics.median(map(sum, zip(openings, resumes, strict=True))),
        "state_bytes": len(stream.state(stream.num_sequences).to_json()),
    }


def read(stream: TokenStream, position: int) -> object:
    """Read the batch at a position."""
    return stream.micro_batches(position, dp_rank=0, dp_size=1, micro_batch_sequences=ROWS, num_micro_batches=1)


def locate(stream: TokenStream, position: int) -> object:
    """Work out the order of one batch, without the memory of neighbours."""
    return stream._training_order().locate(np.arange(position, position + ROWS))


def milliseconds(work: Callable[[], TokenStream | object]) -> tuple[float, object]:
    """Time one call."""
    started = time.perf_counter()
    result = work()
    return 1e3 * (time.perf_counter() - started), result


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
