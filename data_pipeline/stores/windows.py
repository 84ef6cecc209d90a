"""Which record batches the training order needs now and next, and the least cache that holds them. Fetches nothing."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipeline.stores.cache_layout import BatchKey
from data_pipeline.stores.eviction import NEVER, NOW, SPILLED, UNKNOWN
from data_pipeline.stores.remote_shards import RemoteShardFiles
from data_pipeline.training_order import NEVER as ORDER_NEVER
from data_pipeline.training_order import TrainingOrder

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

BATCHES_BESIDE_WINDOW = 4
"""Record batches for which there must be room beside the window: what its sequences run into, each read once, one being
fetched, and one of the next window."""


@dataclass(frozen=True)
class RemoteGroups:
    """One remote source of a stream, and the record batches of each group of its sequences."""

    source: int
    """Its number in the order."""

    files: RemoteShardFiles
    bounds: Int64
    """int64 [groups + 1]: group g lies in the batches bounds[g] to bounds[g + 1], counted in the split."""

    reach: Int64
    """int64 [groups]: the batch after the last one that a sequence of the group runs into."""

    @staticmethod
    def of(source: int, files: RemoteShardFiles, group_bytes: Int64, num_spill_tokens: int) -> "RemoteGroups":
        """Find the groups' batches. A group is some shards in a row, so its bytes tell which.

        `num_spill_tokens`: how far past its group the last sequence may read.
        """
        shards, batches = files.table.columns, files.table.batches
        shard_ends = np.searchsorted(np.cumsum(shards.counts["num_bytes"]), np.cumsum(group_bytes), side="left") + 1
        bounds = np.concatenate(([0], shards.first_batches[shard_ends]))
        token_ends = np.append(batches.first_token, files.table.num_tokens)[bounds[1:]]
        last_tokens = np.minimum(token_ends + num_spill_tokens, files.table.num_tokens) - 1
        reach = np.maximum(bounds[1:], np.searchsorted(batches.first_token, last_tokens, side="right"))
        return RemoteGroups(source, files, bounds, reach)

    @property
    def batch_bytes(self) -> Int64:
        """Bytes of each record batch, int64 [batches]."""
        return self.files.table.batches.counts["length_bytes"]

    def batch_uses(self, group_uses: Float64) -> Float64:
        """Return the next use of each batch, float64 [batches], from that of each group.

        What only the last sequence of a present group runs into is SPILLED.
        """
        uses = np.repeat(group_uses, np.diff(self.bounds))
        for group in np.flatnonzero(self.reach > self.bounds[1:]).tolist():
            spilled = slice(int(self.bounds[group + 1]), int(self.reach[group]))
            uses[spilled] = np.minimum(uses[spilled], max(group_uses[group], SPILLED))
        return uses


@dataclass(frozen=True)
class PlannedBatch:
    """A record batch to have in the cache."""

    next_use: float
    files: RemoteShardFiles
    shard_number: int
    batch_number: int


class WindowUses:
    """When each batch of a stream's remote sources is used next, as seen from the stream's position."""

    def __init__(self, order: TrainingOrder, groups: Sequence[RemoteGroups]) -> None:
        self._order, self._groups = order, groups
        self._datasets = frozenset(each.files.dataset.fingerprint for each in groups)
        # The same dataset may be named twice.
        self._places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for number, each in enumerate(groups):
            firsts = each.files.table.columns.first_batches.tolist()
            for name, first in zip(each.files.shard_names, firsts, strict=False):
                self._places[each.files.dataset.fingerprint, name].append((number, first))
        self._window: tuple[tuple[int, int, int], ...] | None = None
        self._uses: list[Float64] = []

    def advance(self, position: int) -> bool:
        """Look from `position` on; answers whether another window began."""
        current = self._order.windows(position)
        window = tuple((each.source, each.epoch, each.window.first_place) for each in current)
        if window == self._window:
            return False
        uses = []
        for each in self._groups:
            group_uses = self._order.next_uses(each.source, position)
            seen = np.where(group_uses <= position, NOW, group_uses.astype(np.float64))
            uses.append(each.batch_uses(np.where(group_uses == ORDER_NEVER, NEVER, seen)))
        # Replaced whole: the prefetching thread reads it.
        self._uses, self._window = uses, window
        return True

    def next_use(self, key: BatchKey) -> float:
        """Return NOW for the current window, positions for what is read later, UNKNOWN for others' batches."""
        places, uses = self._places.get((key.dataset, key.shard)), self._uses
        if not places or not uses:
            return UNKNOWN
        return min(float(uses[number][first + key.number]) for number, first in places)

    def is_own(self, dataset: str) -> bool:
        """Whether the stream reads the dataset."""
        return dataset in self._datasets

    def plan(self, max_bytes: int) -> list[PlannedBatch]:
        """Return what is used next and fits, the soonest first."""
        uses = np.concatenate(self._uses)
        sizes = np.concatenate([each.batch_bytes for each in self._groups])
        owners = np.repeat(np.arange(len(self._groups)), [len(each.batch_bytes) for each in self._groups])
        numbers = np.concatenate([np.arange(len(each.batch_bytes)) for each in self._groups])
        in_order = np.argsort(uses, kind="stable")
        in_order = in_order[(np.cumsum(sizes[in_order]) <= max_bytes) & (uses[in_order] < UNKNOWN)]
        planned = []
        for place in in_order.tolist():
            files, number = self._groups[int(owners[place])].files, int(numbers[place])
            shard = int(files.table.columns.first_batches.searchsorted(number, side="right")) - 1
            first = int(files.table.columns.first_batches[shard])
            planned.append(PlannedBatch(float(uses[place]), files, shard, number - first))
        return planned


def least_cache_bytes(order: TrainingOrder, groups: Sequence[RemoteGroups], kept_bytes: int) -> int:
    """Return the bytes that a cache needs: the windows of one position, some batches beside them, and the `kept_bytes`
    of the datasets' small files.
    """
    largest_batch = max(int(each.batch_bytes.max(initial=0)) for each in groups)
    return order.most_resident_bytes + BATCHES_BESIDE_WINDOW * largest_batch + kept_bytes
