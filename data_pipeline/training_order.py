"""The order of a training run: which sequence is the p-th sample that the trainer takes.

Joins the config's weights, stages, skips and windows into one closed form, and says what a checkpoint keeps of it.
Holds no index and no position; opens no dataset (`stream.py` does) and fetches nothing (`stores/` does).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipeline.config import DataConfig
from data_pipeline.durable_file import checksum_bytes
from data_pipeline.order import Locations, Mixture, ShuffledOrder
from data_pipeline.stream_state import StreamState, check_same_stream

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SourceShape:
    """What the order knows of one opened source."""

    fingerprint: str
    """Equal data, cut into sequences in the same way, has an equal fingerprint."""

    group_sizes: Int64
    """Sequences of each group, int64 [groups]. A windowed order keeps a group together: a shard, or a pack group."""

    group_bytes: Int64
    """Bytes of each group in its store, int64 [groups]."""

    @property
    def num_sequences(self) -> int:
        """Sequences of the source."""
        return int(self.group_sizes.sum())


class TrainingOrder:
    """An endless order. A *position* counts what the trainer takes; a *sample number* also counts what is skipped."""

    def __init__(self, config: DataConfig, sources: Sequence[SourceShape]) -> None:
        self._config = config
        self._sources = tuple(sources)
        mixture = Mixture.from_weights([source.weight for source in config.sources])
        self._order = ShuffledOrder(
            tuple(source.num_sequences for source in sources), mixture, seed=config.shuffle_seed
        )

    def locate(self, positions: Int64) -> Locations:
        """Say where the samples at int64 [N] positions lie. A position is how many samples were taken before it."""
        return self._order.locate(self.sample_numbers(positions))

    def sample_numbers(self, positions: Int64) -> Int64:
        """Return the sample number at each of int64 [N] positions, which passes over `data.skip_samples`."""
        return positions

    def state(self, consumed_samples: int) -> StreamState:
        """Say where the stream stands after `consumed_samples` of all ranks together."""
        weights = json.dumps([source.weight for source in self._config.sources])
        return StreamState(
            consumed_samples=consumed_samples,
            seed=self._config.shuffle_seed,
            sequence_length_tokens=self._config.sequence_length_tokens,
            mixture_hash=checksum_bytes(weights.encode()),
            fingerprint=checksum_bytes("\n".join(source.fingerprint for source in self._sources).encode()),
        )

    def check_state(self, state: StreamState) -> None:
        """Raise DataError that prints both sides if this order would not have given what `state` counts."""
        check_same_stream(state, self.state(state.consumed_samples))
