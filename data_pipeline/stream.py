"""The stream of batches: sample number in, tokens out, the same at every world size.

Gathers in process from memory maps; no worker process, no position of its own. The order is `training_order.py`'s,
the gathering `sequences.py`'s, the opening `source.py`'s; torch is `torch_batch.py`'s.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.batch import Batch
from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.location_cache import LocationCache
from data_pipeline.manifest import TOKENIZER_NAME, Split
from data_pipeline.order import FixedOrder, Locations, Order
from data_pipeline.row_buffers import RowBuffers
from data_pipeline.shuffle import SourceShape
from data_pipeline.source import Source, check_same_tokenizer, open_source
from data_pipeline.stages import drawn_sources
from data_pipeline.stores.opening import RemoteSources, WindowFollower
from data_pipeline.stream_state import StreamState
from data_pipeline.training_order import TrainingOrder

Int64 = npt.NDArray[np.int64]

# Sample ids keep the source in the upper bits: 2**48 sequences a source, 2**15 sources.
SEQUENCE_ID_BITS = 48


class TokenStream:
    """Batches by sample number. Reading the same number again gives the same sample."""

    def __init__(self, sources: list[Source], order: Order, config: DataConfig, split: Split) -> None:
        self.split = split
        self.sequence_length_tokens = config.sequence_length_tokens
        self.sources = tuple(sources)
        self._order = order
        self._has_positions = config.isolate_documents
        self._masks_labels = config.mask_boundary_labels or config.packing == "best_fit"
        held_out = self.num_sequences if split == "validation" else None
        self._locations = LocationCache(order, num_sequences=self.num_sequences, num_samples=held_out)
        # Of the last step: memory that was touched already is faster to write than fresh pages.
        self._buffers: list[RowBuffers] = []
        self.follower: WindowFollower | None = None
        """Has what is read next fetched, where sources are remote."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids of the sources' tokenizer."""
        return self.sources[0].manifest.tokenizer.vocabulary_size

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer file, equal in all sources."""
        return self.sources[0].directory / TOKENIZER_NAME

    @property
    def num_sequences(self) -> int:
        """Sequences of all sources together, each counted once."""
        return sum(source.num_sequences for source in self.sources)

    @property
    def tokens_per_epoch(self) -> int:
        """Places of all sequences together, each counted once; packed ones hold a little padding."""
        return self.num_sequences * self.sequence_length_tokens

    def read(self, sample_numbers: Int64) -> Batch:
        """Read the samples of int64 [B] numbers into memory of their own.

        Training never ends; held-out data has `num_sequences` samples. Raises DataError where a shard is damaged.
        """
        located = self.locate(sample_numbers)
        if self.follower is not None and len(sample_numbers):
            self.follower.advance(int(np.min(sample_numbers)))
        return self._gather(located, self._new_buffers(len(sample_numbers)))

    def locate(self, sample_numbers: Int64) -> Locations:
        """Say where the samples of int64 [B] numbers lie. Raises DataError for a number that there is not."""
        sample_numbers = np.asarray(sample_numbers, dtype=np.int64)
        if sample_numbers.size:
            self._check_numbers(int(sample_numbers.min()), int(sample_numbers.max()))
        return self._locations.locate(sample_numbers)

    def micro_batches(
        self,
        consumed_samples: int,
        *,
        dp_rank: int,
        dp_size: int,
        micro_batch_sequences: int,
        num_micro_batches: int,
    ) -> list[Batch]:
        """Read one replica's part of the next step; over all replicas the step is a plain range of samples.

        The batches' memory is used again by the next call; `read` gives memory of its own.
        """
        assert 0 <= dp_rank < dp_size
        size = micro_batch_sequences
        self._check_numbers(consumed_samples, consumed_samples + num_micro_batches * dp_size * size - 1)
        if len(self._buffers) < num_micro_batches or len(self._buffers[0].rows) != size:
            self._buffers = [self._new_buffers(size) for _ in range(num_micro_batches)]
        batches = []
        for micro_step in range(num_micro_batches):
            first = consumed_samples + (micro_step * dp_size + dp_rank) * size
            if self.follower is not None:
                self.follower.advance(first)
            batches.append(self._gather(self._locations.locate_range(first, first + size), self._buffers[micro_step]))
        return batches

    def state(self, consumed_samples: int) -> StreamState:
        """Say where the stream stands after `consumed_samples` of all ranks together."""
        return self._training_order().state(consumed_samples)

    def check_state(self, state: StreamState) -> None:
        """Raise DataError that prints both sides if `state` counts samples that this stream would not have given."""
        self._training_order().check_state(state)

    def sample_numbers(self, positions: Int64) -> Int64:
        """Return the sample number at each of int64 [N] positions of training, which passes over skipped ones."""
        return self._training_order().sample_numbers(positions)

    def _training_order(self) -> TrainingOrder:
        assert isinstance(self._order, TrainingOrder), "held-out data has no position"
        return self._order

    def _new_buffers(self, num_rows: int) -> RowBuffers:
        return RowBuffers(
            num_rows,
            self.sequence_length_tokens,
            has_positions=self._has_positions,
            masks_labels=self._masks_labels,
        )

    def _gather(self, located: Locations, buffers: RowBuffers) -> Batch:
        if len(self.sources) == 1:
            self.sources[0].sequences.fill(located.sequences, range(len(buffers.rows)), buffers)
        else:
            for number, source in enumerate(self.sources):
                chosen = np.flatnonzero(located.sources == number)
                source.sequences.fill(located.sequences[chosen], chosen.tolist(), buffers)
        if buffers.rows.size and int(buffers.rows.max()) >= self.vocabulary_size:
            self._refuse_ids(located, buffers)
        return Batch(
            tokens=buffers.tokens,
            labels=buffers.labels,
            positions=buffers.positions,
            sample_ids=(located.sources << SEQUENCE_ID_BITS) | located.sequences,
            epochs=located.epochs,
        )

    def _refuse_ids(self, located: Locations, buffers: RowBuffers) -> None:
        """Raise DataError that names the first id outside the vocabulary, and where it lies."""
        row, column = np.argwhere(buffers.rows >= self.vocabulary_size)[0].tolist()
        source, seen = self.sources[int(located.sources[row])], int(buffers.rows[row, column])
        place = 0
        for span in source.sequences.spans(int(located.sequences[row])):
            place, column = span.start + column, column - span.num_tokens
            if column < 0:
                break
        raise DataError(
            f"{source.directory}: id {seen} in {source.sequences.line.describe_place(place)}: "
            f"the vocabulary is 0..{self.vocabulary_size - 1}: the shard is damaged: run `llama-dist data verify`"
        )

    def _check_numbers(self, lowest: int, highest: int) -> None:
        if lowest < 0:
            raise DataError(f"sample {lowest} was asked for: the first one is 0")
        if self.split == "validation" and highest >= self.num_sequences:
            raise DataError(
                f"held-out sample {highest} was asked for: there are {self.num_sequences}, "
                f"0 to {self.num_sequences - 1}: ask for fewer, or prepare with a larger --validation-fraction"
            )


def open_stream(config: DataConfig, *, split: Split = "train") -> TokenStream:
    """Open the datasets of `config`. Raises DataError if one is absent, damaged at sight, or too short.

    Looks at the manifest and at the size of every shard; checksums are for `llama-dist data verify`.
    """
    remote = RemoteSources(config) if any(source.is_remote for source in config.sources) else None
    sources = [open_source(config, number, split, remote) for number in range(len(config.sources))]
    check_same_tokenizer(sources)
    sizes = tuple(source.num_sequences for source in sources)
    # A source that training draws from must hold something; held-out text may come from some sources only.
    needed = drawn_sources(config)
    too_short = [source for number, source in enumerate(sources) if number in needed and not source.num_sequences]
    if too_short and (split == "train" or not any(sizes)):
        source = too_short[0]
        raise DataError(
            f"{source.directory}: the {split} split holds {source.sequences.line.num_tokens} tokens, one sequence "
            f"needs {config.sequence_length_tokens + 1}: {_advice_for_short(split)}"
        )
    order: Order = FixedOrder(sizes)
    if split == "train":
        order = TrainingOrder(config, [_shape_of(source) for source in sources])
    stream = TokenStream(sources, order, config, split)
    if remote is not None and isinstance(order, TrainingOrder):
        stream.follower = remote.follow(order, [source.sequences for source in sources])
    elif remote is not None:
        remote.check_held_out()
    return stream


def _shape_of(source: Source) -> SourceShape:
    sequences = source.sequences
    return SourceShape(sequences.fingerprint, group_sizes=sequences.group_sizes, group_bytes=sequences.group_bytes)


def _advice_for_short(split: Split) -> str:
    advice = "add text, or lower data.sequence_length_tokens"
    return advice if split == "train" else f"{advice}, or prepare with a larger --validation-fraction"
