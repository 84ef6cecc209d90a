"""The stream of batches: sample number in, tokens out, the same at every world size.

Opens prepared datasets and gathers in process from memory maps; no worker process, no position of its own.
The order is `order.py`'s, the bytes are `token_line.py`'s; torch is `torch_batch.py`'s.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.batch import Batch
from data_pipeline.config import DataConfig
from data_pipeline.durable_file import checksum_file
from data_pipeline.errors import DataError
from data_pipeline.manifest import TOKENIZER_NAME, Manifest, Split, read_manifest
from data_pipeline.order import FixedOrder, Locations, Order
from data_pipeline.shuffle import SourceShape
from data_pipeline.stages import drawn_sources
from data_pipeline.stream_state import StreamState
from data_pipeline.shard_files import LocalShardFiles, check_shard_size
from data_pipeline.token_line import TokenLine
from data_pipeline.training_order import TrainingOrder

Int64 = npt.NDArray[np.int64]

# Sample ids keep the source in the upper bits: 2**48 sequences a source, 2**15 sources.
SEQUENCE_ID_BITS = 48
# Permuting thousands at a time costs numpy little more than permuting eight.
_WINDOW_SAMPLES = 8192
# But every epoch is a permutation of its own, so a window holds few epochs of a tiny source.
_LEAST_WINDOW_SAMPLES = 64
_MOST_WINDOW_EPOCHS = 4
# Ranks and micro-batches of one step touch neighbouring windows.
_MOST_WINDOWS = 4


@dataclass(frozen=True)
class Source:
    """One opened split of one prepared dataset."""

    directory: Path
    manifest: Manifest
    line: TokenLine
    num_sequences: int


class TokenStream:
    """Batches by sample number. Reading the same number again gives the same sample."""

    def __init__(self, sources: list[Source], order: Order, config: DataConfig, split: Split) -> None:
        self.split = split
        self.sequence_length_tokens = config.sequence_length_tokens
        self._sources = sources
        self._order = order
        self._window_samples = min(
            _WINDOW_SAMPLES, max(_LEAST_WINDOW_SAMPLES, _MOST_WINDOW_EPOCHS * self.num_sequences)
        )
        self._windows: OrderedDict[int, Locations] = OrderedDict()

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids of the sources' tokenizer."""
        return self._sources[0].manifest.tokenizer.vocabulary_size

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer file, equal in all sources."""
        return self._sources[0].directory / TOKENIZER_NAME

    @property
    def num_sequences(self) -> int:
        """Sequences of all sources together, each counted once."""
        return sum(source.num_sequences for source in self._sources)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of all sequences together, each counted once."""
        return self.num_sequences * self.sequence_length_tokens

    def read(self, sample_numbers: Int64) -> Batch:
        """Read the samples of int64 [B] numbers; training never ends, held-out data has `num_sequences` samples."""
        sample_numbers = np.asarray(sample_numbers, dtype=np.int64)
        self._check_numbers(sample_numbers)
        locations = self._locate(sample_numbers)
        length = self.sequence_length_tokens
        # One tokenizer, so one width of the stored ids; they are widened once, on the way out.
        rows = np.empty((len(sample_numbers), length + 1), dtype=self._sources[0].line.dtype)
        for number, source in enumerate(self._sources):
            chosen = np.flatnonzero(locations.sources == number)
            starts = locations.sequences[chosen] * length
            for row, start, b in zip(chosen.tolist(), starts.tolist(), source.line.batch_numbers(starts), strict=True):
                source.line.copy(start, b, rows[row])
        return Batch(
            tokens=rows[:, :-1].astype(np.int64, order="C"),
            labels=rows[:, 1:].astype(np.int64, order="C"),
            positions=None,
            sample_ids=(locations.sources << SEQUENCE_ID_BITS) | locations.sequences,
            epochs=locations.epochs,
        )

    def micro_batches(
        self,
        consumed_samples: int,
        *,
        dp_rank: int,
        dp_size: int,
        micro_batch_sequences: int,
        num_micro_batches: int,
    ) -> list[Batch]:
        """Read one replica's part of the next step; over all replicas the step is a plain range of samples."""
        assert 0 <= dp_rank < dp_size
        batches = []
        for micro_step in range(num_micro_batches):
            first = consumed_samples + (micro_step * dp_size + dp_rank) * micro_batch_sequences
            batches.append(self.read(np.arange(first, first + micro_batch_sequences, dtype=np.int64)))
        return batches

    def state(self, consumed_samples: int) -> StreamState:
        """Say where the stream stands after `consumed_samples` of all ranks together."""
        return self._training_order().state(consumed_samples)

    def check_state(self, state: StreamState) -> None:
        """Raise DataError that prints both sides if `state` counts samples that this stream would not have given."""
        self._training_order().check_state(state)

    def _training_order(self) -> TrainingOrder:
        assert isinstance(self._order, TrainingOrder), "held-out data has no position"
        return self._order

    def _check_numbers(self, sample_numbers: Int64) -> None:
        lowest, highest = (int(sample_numbers.min()), int(sample_numbers.max())) if sample_numbers.size else (0, 0)
        if lowest < 0:
            raise DataError(f"sample {lowest} was asked for: the first one is 0")
        if self.split == "validation" and highest >= self.num_sequences:
            raise DataError(
                f"held-out sample {highest} was asked for: there are {self.num_sequences}, "
                f"0 to {self.num_sequences - 1}: ask for fewer, or prepare with a larger --validation-fraction"
            )

    def _locate(self, sample_numbers: Int64) -> Locations:
        """Look the samples up window by window; a window is kept, since neighbours are asked for next."""
        windows, places = np.divmod(sample_numbers, self._window_samples)
        if len(windows) and windows.min() == windows.max():
            located = self._window(int(windows[0]))
            return Locations(located.sources[places], located.epochs[places], located.sequences[places])
        found = np.empty((3, len(sample_numbers)), dtype=np.int64)
        for window in np.unique(windows):
            inside = windows == window
            located, chosen = self._window(int(window)), places[inside]
            found[0, inside] = located.sources[chosen]
            found[1, inside] = located.epochs[chosen]
            found[2, inside] = located.sequences[chosen]
        return Locations(found[0], found[1], found[2])

    def _window(self, number: int) -> Locations:
        located = self._windows.get(number)
        if located is None:
            start, end = number * self._window_samples, (number + 1) * self._window_samples
            if self.split == "validation":
                end = min(end, self.num_sequences)
            located = self._order.locate(np.arange(start, end, dtype=np.int64))
            self._windows[number] = located
            if len(self._windows) > _MOST_WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(number)
        return located


def open_stream(config: DataConfig, *, split: Split = "train") -> TokenStream:
    """Open the datasets of `config`. Raises DataError if one is absent, damaged at sight, or too short.

    Looks at the manifest and at the size of every shard; checksums are for `llama-dist data verify`.
    """
    sources = [_open_source(Path(source.path), config.sequence_length_tokens, split) for source in config.sources]
    _check_same_tokenizer(sources)
    sizes = tuple(source.num_sequences for source in sources)
    # A source that training draws from must hold something; held-out text may come from some sources only.
    needed = drawn_sources(config)
    too_short = [source for number, source in enumerate(sources) if number in needed and not source.num_sequences]
    if too_short and (split == "train" or not any(sizes)):
        source = too_short[0]
        raise DataError(
            f"{source.directory}: the {split} split holds {source.line.num_tokens} tokens, one sequence needs "
            f"{config.sequence_length_tokens + 1}: {_advice_for_short(split)}"
        )
    order: Order = FixedOrder(sizes)
    if split == "train":
        order = TrainingOrder(config, [_shape_of(source, config.sequence_length_tokens) for source in sources])
    return TokenStream(sources, order, config, split)


def _advice_for_short(split: Split) -> str:
    advice = "add text, or lower data.sequence_length_tokens"
    return advice if split == "train" else f"{advice}, or prepare with a larger --validation-fraction"


def _open_source(directory: Path, sequence_length_tokens: int, split: Split) -> Source:
    manifest = read_manifest(directory)
    for shard in manifest.all_shards():
        check_shard_size(directory, shard)
    _check_tokenizer_file(directory / TOKENIZER_NAME, manifest.tokenizer.checksum)
    line = TokenLine(manifest.table(split), LocalShardFiles(directory, manifest.shards(split)), manifest.token_dtype)
    # The last sequence needs one more token, for its last label.
    return Source(directory, manifest, line, max(0, line.num_tokens - 1) // sequence_length_tokens)


def _check_tokenizer_file(path: Path, needed: str) -> None:
    try:
        seen = checksum_file(path)
    except OSError as error:
        raise DataError(f"{path}: the dataset's tokenizer cannot be read: {error.strerror}: restore it") from None
    if seen != needed:
        raise DataError(f"{path}: checksum {seen}, the manifest says {needed}: another tokenizer's file: restore it")


def _check_same_tokenizer(sources: list[Source]) -> None:
    first = sources[0]
    for source in sources[1:]:
        if source.manifest.tokenizer != first.manifest.tokenizer:
            raise DataError(
                "the sources were prepared with different tokenizers:\n"
                f"  {first.directory}: {first.manifest.tokenizer}\n  {source.directory}: {source.manifest.tokenizer}\n"
                "  prepare them again with one tokenizer"
            )


def _shape_of(source: Source, sequence_length_tokens: int) -> SourceShape:
    """Group the sequences by the shard in which their first token lies."""
    shards = source.manifest.shards("train")
    ends = -(-np.cumsum([shard.num_tokens for shard in shards], dtype=np.int64) // sequence_length_tokens)
    ends = np.minimum(ends, source.num_sequences)
    return SourceShape(
        source.manifest.fingerprint,
        group_sizes=np.diff(ends, prepend=0),
        group_bytes=np.array([shard.num_bytes for shard in shards], dtype=np.int64),
    )
