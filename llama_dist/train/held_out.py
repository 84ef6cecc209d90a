"""Loss on held-out text: always the same sequences, so that the value compares over steps and topologies."""

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.stream import TokenStream
from data_pipeline.torch_batch import to_tensors
from llama_dist.config import RunConfig
from llama_dist.parallel.engine import Engine, MicroBatch
from llama_dist.parallel.grid import Grid


class HeldOutText:
    """This rank's share of the first `evaluation.num_sequences` held-out sequences."""

    def __init__(self, stream: TokenStream, grid: Grid, config: RunConfig) -> None:
        wanted = config.evaluation.num_sequences
        if wanted > stream.num_sequences:
            raise DataError(
                f"evaluation.num_sequences is {wanted}, the held-out split has {stream.num_sequences} sequences of "
                f"{config.data.sequence_length_tokens} tokens: set evaluation.num_sequences to at most that many, or "
                "prepare the data with a larger --validation-fraction"
            )
        self._stream, self._grid, self._num_sequences = stream, grid, wanted
        self._micro_batch_sequences = config.batch.micro_batch_sequences
        self._interval_steps, self._last_step = config.evaluation.interval_steps, config.train.num_steps

    def is_due(self, step: int) -> bool:
        """Whether the evaluation interval or the run ends with `step`."""
        return step % self._interval_steps == 0 or step == self._last_step

    def loss(self, engine: Engine) -> float:
        """Collective. Mean cross-entropy in nats, each sequence counted once whatever the number of replicas."""
        return engine.evaluate(self._micro_batches())

    def _micro_batches(self) -> list[MicroBatch]:
        size = self._micro_batch_sequences
        starts = range(self._grid.dp_rank * size, self._num_sequences, self._grid.dp_size * size)
        return [to_tensors(self._stream.read(np.arange(start, start + size)))[:2] for start in starts]
