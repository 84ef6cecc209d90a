"""The order of a training run: which sequence is the p-th sample that the trainer takes.

Joins the config's weights, stages, skips and windows into one closed form, and says what a checkpoint keeps of it.
Holds no index and no position; opens no dataset (`stream.py` does) and fetches nothing (`stores/` does).

Words: a *position* is how many samples the trainer took before this one, over all ranks; a *sample number* also counts
those that `data.skip_samples` passes over; the *ordinal* of a sample counts the samples of its source before it, and is
`epoch * num_sequences + place`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipeline.config import DataConfig
from data_pipeline.durable_file import checksum_bytes
from data_pipeline.order import ORDER_VERSION, Locations
from data_pipeline.permutation import permute_in_cells
from data_pipeline.shuffle import EpochShuffle, Shuffle, SourceShape, Window, WindowShuffle
from data_pipeline.skips import SkipLine
from data_pipeline.stages import StageLine, plan_stages
from data_pipeline.stream_state import StreamState, check_same_past

Int64 = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The next use of a group that the run will not read again."""

__all__ = ["NEVER", "CurrentWindow", "SourceShape", "TrainingOrder", "Window"]


@dataclass(frozen=True)
class CurrentWindow:
    """The window that the next sample of one source lies in."""

    source: int
    epoch: int
    window: Window


class TrainingOrder:
    """An endless order: a pure function of the config, of the sources' sizes, and of the position."""

    def __init__(self, config: DataConfig, sources: Sequence[SourceShape]) -> None:
        """`sources` in the order of `config.sources`. Raises DataError if a stage draws from a source without
        sequences, or from one too seldom.
        """
        self._config = config
        self._shapes = tuple(sources)
        self._num_sequences = np.array([shape.num_sequences for shape in sources], dtype=np.int64)
        self.stages = plan_stages(config, self._num_sequences.tolist())
        self.skips = SkipLine(config.skip_samples)
        self.line = StageLine(self.stages, seed=config.shuffle_seed)
        self._shuffles = [_shuffle(config, shape, number) for number, shape in enumerate(sources)]

    def locate(self, positions: Int64) -> Locations:
        """Say where the samples at int64 [N] positions lie. Positions near each other cost least together."""
        sources, ordinals = self.line.draw(self.sample_numbers(positions))
        # A source that is never drawn may hold nothing.
        epochs, places = np.divmod(ordinals, np.maximum(self._num_sequences, 1)[sources])
        return Locations(sources, epochs, self._sequences(sources, epochs, places))

    def sample_numbers(self, positions: Int64) -> Int64:
        """Return the sample number at each of int64 [N] positions, which passes over `data.skip_samples`."""
        return self.skips.sample_numbers(positions)

    def state(self, consumed_samples: int) -> StreamState:
        """Say where the stream stands after `consumed_samples` of all ranks together, and by which past it came."""
        end = self.skips.end_of(consumed_samples)
        begun = [stage for stage in self.stages if stage.first_sample < end]
        drawn = sorted({source for stage in begun for source in stage.mixture.drawn_sources})
        shares = [[[source, stage.mixture.shares[source]] for source in stage.mixture.drawn_sources] for stage in begun]
        past = {
            "packing": self._config.packing,
            "shuffle_window_bytes": self._config.shuffle_window_bytes,
            "stages": [[stage.first_sample, share] for stage, share in zip(begun, shares, strict=True)],
            "skips": [skipped for skipped in self.skips.ranges if skipped[0] < end],
        }
        fingerprints = [f"{source} {self._shapes[source].fingerprint}" for source in drawn]
        return StreamState(
            version=ORDER_VERSION,
            consumed_samples=consumed_samples,
            seed=self._config.shuffle_seed,
            sequence_length_tokens=self._config.sequence_length_tokens,
            mixture_hash=checksum_bytes(json.dumps(past).encode()),
            fingerprint=checksum_bytes("\n".join(fingerprints).encode()),
        )

    def check_state(self, state: StreamState) -> None:
        """Raise DataError that prints both sides if this order would not have given the samples that `state` counts.

        What lies ahead of them may differ: later stages, later skips, sources that were not drawn from.
        """
        end = self.skips.end_of(state.consumed_samples)
        check_same_past(state, self.state(state.consumed_samples), end * self._config.sequence_length_tokens)

    def windows(self, position: int) -> list[CurrentWindow]:
        """Return, for each source that the stage at `position` draws from, the window of its next sample.

        These are the groups to have at hand. What comes after one is `window(source, epoch, its end_place)`, or place 0
        of the next epoch where that is the source's end.
        """
        number = int(self.sample_numbers(np.array([position], dtype=np.int64))[0])
        mixture = self.stages[self.line.stage_at(number)].mixture
        ordinals = self.line.drawn_before(number)
        found = []
        for source in mixture.drawn_sources:
            epoch, place = divmod(int(ordinals[source]), int(self._num_sequences[source]))
            found.append(CurrentWindow(source, epoch, self.window(source, epoch, place)))
        return found

    def window(self, source: int, epoch: int, place: int) -> Window:
        """Return the groups that are read together with a place, in [0, num_sequences), of an epoch of a source."""
        return self._shuffles[source].window(epoch, place)

    @property
    def most_resident_bytes(self) -> int:
        """Most bytes that the windows of all sources drawn at one position can have together: the least a cache needs.

        Counts one window a source. A cache that also holds the next one of a source while it changes needs up to
        twice as much. Whole sources where `data.shuffle_window_bytes` is not set.
        """
        return max(
            sum(self._shuffles[source].most_window_bytes for source in stage.mixture.drawn_sources)
            for stage in self.stages
        )

    def next_uses(self, source: int, position: int) -> Int64:
        """Return the position at which each group of `source` is needed next, int64 [groups]: evict the highest first.

        `position` itself for the groups of the present window; `NEVER` for a group without sequences or a source that
        no stage ahead draws from. Positions ahead are estimates, right to within one block of the mixture. O(groups).
        """
        number = int(self.sample_numbers(np.array([position], dtype=np.int64))[0])
        stage = self.line.stage_at(number)
        size = int(self._num_sequences[source])
        if not size:
            return np.full(len(self._shapes[source].group_sizes), NEVER, dtype=np.int64)
        epoch, place = divmod(int(self.line.drawn_before(number)[source]), size)
        window, shuffle = self.window(source, epoch, place), self._shuffles[source]
        now, later = shuffle.first_places(epoch), shuffle.first_places(epoch + 1)
        ordinals = np.where(
            now >= window.first_place, epoch * size + np.maximum(now, place), (epoch + 1) * size + later
        )
        starts, rows = np.unique(ordinals, return_inverse=True)
        numbers = [self.line.sample_of(source, ordinal, from_stage=stage) for ordinal in starts.tolist()]
        known = np.array([NEVER if one is None else max(one, number) for one in numbers], dtype=np.int64)
        uses = np.where(known == NEVER, NEVER, self.skips.positions(known))[rows]
        is_drawn_now = bool(self.stages[stage].mixture.shares[source])
        present = (now == window.first_place) & is_drawn_now
        return np.asarray(np.where(now < 0, NEVER, np.where(present, position, uses)))

    def _sequences(self, sources: Int64, epochs: Int64, places: Int64) -> Int64:
        """Permute the places of all sources and epochs together: numpy calls are dear, their elements are not."""
        passes, cells, offsets = [], np.empty_like(places), np.empty_like(places)
        firsts: list[int] = []
        sizes: list[int] = []
        tags: list[str] = []
        for source, epoch, chosen in _split(sources, epochs):
            found = self._shuffles[source].cells(epoch, places[chosen])
            cells[chosen], offsets[chosen] = found.cells + len(sizes), found.offsets
            firsts += found.firsts
            sizes += found.sizes
            tags += found.tags
            passes.append((source, epoch, chosen))
        permuted = permute_in_cells(offsets, cells, sizes, seed=self._config.shuffle_seed, tags=tags)
        permuted += np.array(firsts, dtype=np.int64)[cells]
        for source, epoch, chosen in passes:
            permuted[chosen] = self._shuffles[source].sequences(epoch, permuted[chosen])
        return permuted


def _split(sources: Int64, epochs: Int64) -> Iterator[tuple[int, int, Int64]]:
    """Yield each source and epoch that occurs, with the rows in which it does."""
    rows = np.lexsort((epochs, sources))
    changes = np.flatnonzero(np.diff(sources[rows]) | np.diff(epochs[rows])) + 1
    for chosen in np.split(rows, changes):
        if len(chosen):
            yield int(sources[chosen[0]]), int(epochs[chosen[0]]), chosen


def _shuffle(config: DataConfig, shape: SourceShape, source: int) -> Shuffle:
    is_one_group = np.count_nonzero(shape.group_sizes) <= 1
    # A source that is one window anyway is spared the cuts, which tiny sources would need for epoch after epoch.
    if config.shuffle_window_bytes is None or is_one_group or shape.num_bytes <= config.shuffle_window_bytes:
        return EpochShuffle(shape, source=source)
    return WindowShuffle(shape, window_bytes=config.shuffle_window_bytes, seed=config.shuffle_seed, source=source)
