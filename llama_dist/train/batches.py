"""This rank's micro-batches of a step, and the audit of which samples they were."""

import json
import os
import sys
from pathlib import Path

from data_pipeline.batch import Batch
from data_pipeline.stream import TokenStream
from data_pipeline.torch_batch import to_tensors
from llama_dist.config import RunConfig
from llama_dist.parallel.deepspeed_config import num_micro_batches
from llama_dist.parallel.engine import MicroBatch
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.fence import Fence
from llama_dist.train.keeper import Position


class TrainingBatches:
    """Reads what this rank's replica trains on. Ranks between the first and last stage read nothing."""

    def __init__(self, stream: TokenStream, grid: Grid, config: RunConfig, audit: "SampleAudit | None" = None) -> None:
        self._stream, self._grid, self._audit = stream, grid, audit
        self._micro_batch_sequences = config.batch.micro_batch_sequences
        self._num_micro_batches = num_micro_batches(config, grid)

    def read(self, position: Position) -> list[MicroBatch]:
        """Micro-batches of the step that follows `position`; over all replicas they are one plain range of samples."""
        if not (self._grid.is_first_stage or self._grid.is_last_stage):
            return []
        batches = self._stream.micro_batches(
            position.consumed_samples,
            dp_rank=self._grid.dp_rank,
            dp_size=self._grid.dp_size,
            micro_batch_sequences=self._micro_batch_sequences,
            num_micro_batches=self._num_micro_batches,
        )
        if self._audit and self._grid.is_first_stage:
            self._audit.log(position.step + 1, batches)
        return [MicroBatch(*to_tensors(batch)) for batch in batches]


class SampleAudit:
    """Appends the ids of the samples of each step to a file of this rank's own."""

    def __init__(self, metrics_directory: Path, rank: int, fence: Fence) -> None:
        self._path = metrics_directory / "audit" / f"rank_{rank:05d}.jsonl"
        self._fence = fence

    def log(self, step: int, batches: list[Batch]) -> None:
        """Write one line: attempt, step (counted from 1), sample ids and epochs in the order of the micro-batches.

        Raises FencedError in an old attempt.
        """
        self._fence.check()
        values = {
            "attempt": self._fence.attempt,
            "step": step,
            "sample_ids": [int(sample) for batch in batches for sample in batch.sample_ids],
            "epochs": [int(epoch) for batch in batches for epoch in batch.epochs],
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            # An audit with a gap is a poor audit, but no reason to end a training.
            print(f"ALERT: {self._path}: the samples of step {step} are not logged: {error}", file=sys.stderr)
