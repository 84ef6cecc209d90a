"""Loss on held-out text: always the same sequences, so that the value compares over steps and topologies."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data_pipeline.batch import IGNORED_LABEL
from data_pipeline.errors import DataError
from data_pipeline.stream import TokenStream, open_stream
from data_pipeline.torch_batch import to_tensors
from llama_dist.config import DEFAULT_SET_NAME, EvaluationSetConfig, RunConfig
from llama_dist.parallel.engine import Engine, MicroBatch, OnMicroBatch, tell_nobody
from llama_dist.parallel.grid import Grid


@dataclass(frozen=True)
class HeldOutSet:
    """The first `num_sequences` sequences of a stream, under a name."""

    name: str
    stream: TokenStream
    num_sequences: int

    def micro_batches(self, grid: Grid, micro_batch_sequences: int) -> Iterator[MicroBatch]:
        """Yield one replica's share: as many for each, the last ones filled up with rows that do not count."""
        size = micro_batch_sequences
        for first in range(0, self.num_sequences, grid.dp_size * size):
            numbers = np.arange(size, dtype=np.int64) + first + grid.dp_rank * size
            is_beyond = numbers >= self.num_sequences
            tokens, labels, positions = to_tensors(self.stream.read(np.where(is_beyond, 0, numbers)))
            labels = labels.masked_fill(torch.from_numpy(is_beyond)[:, None], IGNORED_LABEL)
            yield MicroBatch(tokens, labels, positions)


class HeldOutText:
    """All evaluation sets of a run."""

    def __init__(self, sets: Sequence[HeldOutSet], grid: Grid, config: RunConfig) -> None:
        self._sets, self._grid = sets, grid
        self._micro_batch_sequences = config.batch.micro_batch_sequences
        self._interval_steps, self._last_step = config.evaluation.interval_steps, config.train.num_steps

    def is_due(self, step: int) -> bool:
        """Whether the evaluation interval or the run ends with `step`."""
        return step % self._interval_steps == 0 or step == self._last_step

    def losses(
        self, engine: Engine, any_stop: Callable[[], bool], on_micro_batch: OnMicroBatch = tell_nobody
    ) -> dict[str, float] | None:
        """Collective. Mean cross-entropy of each set in nats; every label counts once whatever the replicas.

        None where the run must stop meanwhile: `any_stop` is collective, and asked before each set.
        `on_micro_batch` counts over all sets.
        """
        losses: dict[str, float] = {}
        counter = itertools.count(1)
        for one in self._sets:
            if any_stop():
                return None
            micro_batches = list(one.micro_batches(self._grid, self._micro_batch_sequences))
            losses[one.name] = engine.evaluate(micro_batches, lambda _number: on_micro_batch(next(counter)))
        return losses


def open_held_out_sets(config: RunConfig, training: TokenStream) -> list[HeldOutSet]:
    """Open the set that every run has and those of `evaluation.sets`, in this order.

    Raises DataError where one is shorter than asked for, or was prepared with another tokenizer than `training`.
    """
    default = EvaluationSetConfig(name=DEFAULT_SET_NAME, num_sequences=config.evaluation.num_sequences)
    opened = [_open(default, "evaluation", config)]
    opened += [_open(one, f"evaluation.sets.{number}", config) for number, one in enumerate(config.evaluation.sets)]
    needed = training.tokenizer_path.read_bytes()
    for one in opened:
        if one.stream.tokenizer_path.read_bytes() != needed:
            raise DataError(
                f"evaluation set `{one.name}` was prepared with another tokenizer ({one.stream.tokenizer_path}) than "
                f"the training data ({training.tokenizer_path}): prepare it again with that one"
            )
    return opened


def _open(wanted: EvaluationSetConfig, field: str, config: RunConfig) -> HeldOutSet:
    # Later stages, the sources that only they draw from, and skipped samples belong to the training: the sequences must
    # stay the same when they change.
    sources = wanted.sources or [source for source in config.data.sources if source.weight]
    data = config.data.model_copy(update={"sources": sources, "stages": [], "skip_samples": []})
    stream = open_stream(data, split=wanted.split)
    if wanted.num_sequences > stream.num_sequences:
        raise DataError(
            f"{field}.num_sequences is {wanted.num_sequences}, the {wanted.split} split of set `{wanted.name}` has "
            f"{stream.num_sequences} sequences of {config.data.sequence_length_tokens} tokens: set "
            f"{field}.num_sequences to at most that many, or prepare the data with a larger --validation-fraction"
        )
    return HeldOutSet(wanted.name, stream, wanted.num_sequences)
