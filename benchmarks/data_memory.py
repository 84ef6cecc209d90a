"""Prints what a stream costs at any size: memory, opening, order, resuming, state; and the padding of best-fit packing.

Streams of the corpus and of synthetic datasets of 1e6 and 1e12 tokens, each in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring.turns import ROOT, print_machine, print_table, run_beside_peers, shown

STREAM_COSTS = Path(__file__).parent / "measuring" / "stream_costs.py"
VAST_DATASET = ROOT / "tests" / "data_pipeline" / "vast_dataset.py"
# Shards, record batches a shard, tokens a record batch.
SYNTHETIC = {"1e6 tokens": (1, 1, 1_000_448), "1e12 tokens": (8000, 32, 4_000_000)}
COLUMNS = {
    "anonymous_bytes": "memory, MB",
    "first_opening_ms": "first opening, ms",
    "opening_ms": "opening, ms",
    "order_ms": "order, ms",
    "far_batch_ms": "a batch far away, ms",
    "resume_opened_ms": "resume when open, ms",
    "resume_ms": "resume with the opening, ms",
    "state_bytes": "state, bytes",
}
TARGETS = "30 | 100 | 100 | 10 | - | 10 | 10 | 512"


def main() -> None:
    """Measure each dataset, then pack the corpus."""
    # The corpus is made of the peers' sources.
    run_beside_peers()
    from measuring.corpus import dataset_directory, tokenizer_file  # noqa: PLC0415

    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        places = {"the corpus": dataset_directory()} | {name: Path(folder) / name for name in SYNTHETIC}
        for name, sizes in SYNTHETIC.items():
            run_program(VAST_DATASET, places[name], tokenizer_file(), *sizes)
        costs: dict[str, dict[str, float]] = {
            name: json.loads(run_program(STREAM_COSTS, place)) for name, place in places.items()
        }
    rows = [[name, *(cell(column, cost[column]) for column in COLUMNS)] for name, cost in costs.items()]
    print_table(["dataset", *COLUMNS.values()], [*rows, ["target, at most", *TARGETS.split(" | ")]])
    print_padding(dataset_directory())


def cell(column: str, value: float) -> str:
    """Show bytes of memory as megabytes, the rest as it is."""
    return shown(value / 1e6 if column == "anonymous_bytes" else value)


def print_padding(directory: Path) -> None:
    """Pack the corpus's training documents at 2048 tokens."""
    from data_pipeline.packing.pack_dataset import pack_split  # noqa: PLC0415

    record = pack_split(directory, "train", 2048).record
    share = record.num_padding_tokens / (record.num_packs * 2048)
    print(f"best-fit padding at 2048 tokens, {record.num_documents:,} documents: {share:.4%} (target 0.1 %)")


def run_program(program: Path, *arguments: Any) -> str:
    """Run one of our programs apart and return its output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(program), *map(str, arguments)]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout


if __name__ == "__main__":
    main()
