"""Which sequence of a source is its n-th sample: each epoch permuted whole, or window by window.

A *group* of sequences lies together in the store (a shard, a pack group). A windowed epoch permutes the groups, cuts
their line into windows that fit a number of bytes, and permutes the sequences inside each window: a bijection of the
epoch that needs only one window at hand. Knows no weights (`stages.py`) and fetches nothing (`stores/`).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_pipeline.permutation import permute

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SourceShape:
    """What the order knows of one opened source."""

    fingerprint: str
    """Equal data, cut into sequences in the same way, has an equal fingerprint."""

    group_sizes: Int64
    """Sequences of each group, int64 [groups], in the order of the sequences; may be 0."""

    group_bytes: Int64
    """Bytes of each group in its store, int64 [groups]."""

    @property
    def num_sequences(self) -> int:
        """Sequences of the source."""
        return int(self.group_sizes.sum())

    @property
    def num_bytes(self) -> int:
        """Bytes of the groups that hold sequences: the others are never read."""
        return int(self.group_bytes[self.group_sizes > 0].sum())


@dataclass(frozen=True)
class Window:
    """A range of places of one epoch of one source, and the groups that its sequences lie in."""

    groups: Int64
    """Numbers of the groups, int64 [groups of the window], in no order of use."""

    num_bytes: int
    """Bytes of these groups together."""

    first_place: int
    """First place of the epoch that reads from these groups."""

    end_place: int
    """Place after the last one; the next window begins there, or the next epoch."""


@dataclass(frozen=True)
class Cells:
    """The ranges of an epoch's places that are permuted, each in itself, for N places."""

    cells: Int64
    """Number of the cell of each place, int64 [N]."""

    offsets: Int64
    """Places of its cell before each place, int64 [N]."""

    firsts: list[int]
    """First place of each cell."""

    sizes: list[int]
    """Places of each cell."""

    tags: list[str]
    """What picks the permutation of each cell, beside the seed."""


class Shuffle(Protocol):
    """The order of one source's sequences, epoch after epoch."""

    def cells(self, epoch: int, places: Int64) -> Cells:
        """Say in which cell each of int64 [N] places, each in [0, num_sequences), of `epoch` is permuted."""
        ...

    def sequences(self, epoch: int, permuted: Int64) -> Int64:
        """Return the sequence at each of int64 [N] places, once permuted inside their cells."""
        ...

    def window(self, epoch: int, place: int) -> Window:
        """Return the window that a place of `epoch` lies in."""
        ...

    def first_places(self, epoch: int) -> Int64:
        """Return the first place of the window of each group, int64 [groups]; -1 for a group without sequences."""
        ...

    @property
    def most_window_bytes(self) -> int:
        """Most bytes that a window of any epoch has."""
        ...


class EpochShuffle:
    """One permutation for the whole epoch: the one window holds every group."""

    def __init__(self, shape: SourceShape, *, source: int) -> None:
        self._shape, self._source = shape, source

    def cells(self, epoch: int, places: Int64) -> Cells:
        """Return the one cell there is."""
        tag = f"source {self._source} epoch {epoch}"
        return Cells(np.zeros_like(places), places, [0], [self._shape.num_sequences], [tag])

    def sequences(self, epoch: int, permuted: Int64) -> Int64:
        """Return the places themselves."""
        return permuted

    def window(self, epoch: int, place: int) -> Window:
        """Return the one window there is."""
        return Window(np.flatnonzero(self._shape.group_sizes), self._shape.num_bytes, 0, self._shape.num_sequences)

    def first_places(self, epoch: int) -> Int64:
        """Return 0 for each group, or -1 for one without sequences."""
        return np.where(self._shape.group_sizes > 0, 0, -1)

    @property
    def most_window_bytes(self) -> int:
        """Bytes of all groups with sequences."""
        return self._shape.num_bytes


class WindowShuffle:
    """Groups permuted, cut into windows of `window_bytes`, and the sequences of each window permuted."""

    # An epoch's cuts take three numbers a group. Only small sources are in several epochs at a time.
    _MOST_EPOCHS = 8

    def __init__(self, shape: SourceShape, *, window_bytes: int, seed: int, source: int) -> None:
        """A window holds at least one group, even one that is larger than `window_bytes`."""
        self._shape, self._window_bytes = shape, window_bytes
        self._seed, self._source = seed, source
        self._first_sequences = np.cumsum(shape.group_sizes) - shape.group_sizes
        self._filled = np.flatnonzero(shape.group_sizes)
        self._epochs: OrderedDict[int, _Cuts] = OrderedDict()

    def cells(self, epoch: int, places: Int64) -> Cells:
        """Return the windows of the places."""
        cuts = self._cuts(epoch)
        windows, cells = np.unique(np.searchsorted(cuts.window_ends, places, side="right"), return_inverse=True)
        numbers = windows.tolist()
        firsts = [cuts.first_place(window) for window in numbers]
        sizes = [int(cuts.window_ends[window]) - first for window, first in zip(numbers, firsts, strict=True)]
        tags = [f"source {self._source} epoch {epoch} window {window}" for window in numbers]
        return Cells(cells, places - np.array(firsts, dtype=np.int64)[cells], firsts, sizes, tags)

    def sequences(self, epoch: int, permuted: Int64) -> Int64:
        """Return the sequence at each of int64 [N] places of the epoch's line of groups."""
        cuts = self._cuts(epoch)
        at = np.searchsorted(cuts.group_ends, permuted, side="right")
        groups = cuts.groups[at]
        before = cuts.group_ends[at] - self._shape.group_sizes[groups]
        return np.asarray(self._first_sequences[groups] + permuted - before)

    def window(self, epoch: int, place: int) -> Window:
        """Return the window that a place of `epoch` lies in."""
        cuts = self._cuts(epoch)
        window = int(np.searchsorted(cuts.window_ends, place, side="right"))
        first, end = cuts.first_place(window), int(cuts.window_ends[window])
        ahead, behind = np.searchsorted(cuts.group_ends, (first, end), side="right")
        groups = cuts.groups[ahead:behind]
        return Window(groups, int(self._shape.group_bytes[groups].sum()), first, end)

    def first_places(self, epoch: int) -> Int64:
        """Return the first place of the window of each group, int64 [groups]; -1 for a group without sequences."""
        cuts = self._cuts(epoch)
        starts = np.concatenate(([0], cuts.window_ends[:-1]))
        places = np.full(len(self._shape.group_sizes), -1, dtype=np.int64)
        places[cuts.groups] = starts[np.searchsorted(cuts.window_ends, cuts.group_ends, side="left")]
        return places

    @property
    def most_window_bytes(self) -> int:
        """Most bytes that a window of any epoch has."""
        sizes = self._shape.group_bytes[self._filled]
        return min(int(sizes.sum()), max(self._window_bytes, int(sizes.max(initial=0))))

    def _cuts(self, epoch: int) -> "_Cuts":
        found = self._epochs.get(epoch)
        if found is None:
            found = self._epochs[epoch] = self._cut(epoch)
            if len(self._epochs) > self._MOST_EPOCHS:
                self._epochs.pop(next(iter(self._epochs)), None)
        return found

    def _cut(self, epoch: int) -> "_Cuts":
        num_groups = len(self._filled)
        tag = f"groups of source {self._source} epoch {epoch}"
        groups = self._filled[permute(np.arange(num_groups), num_groups, seed=self._seed, tag=tag)]
        group_ends = np.cumsum(self._shape.group_sizes[groups])
        byte_ends = np.cumsum(self._shape.group_bytes[groups])
        window_ends, cut, bytes_before = [], 0, 0
        while cut < num_groups:
            fitting = int(np.searchsorted(byte_ends, bytes_before + self._window_bytes, side="right"))
            cut = max(cut + 1, fitting)
            window_ends.append(int(group_ends[cut - 1]))
            bytes_before = int(byte_ends[cut - 1])
        return _Cuts(groups, group_ends, np.array(window_ends, dtype=np.int64))


@dataclass(frozen=True)
class _Cuts:
    """One epoch's line of groups, and where it is cut into windows."""

    groups: Int64
    """The groups with sequences, int64 [N], as permuted."""

    group_ends: Int64
    """Place after the last sequence of each of them, int64 [N]."""

    window_ends: Int64
    """Place after the last sequence of each window, int64 [windows]."""

    def first_place(self, window: int) -> int:
        """First place of a window, by its number."""
        return int(self.window_ends[window - 1]) if window else 0
