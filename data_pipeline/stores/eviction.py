"""Which files of a full cache go first: those that are used last. Pure; removes nothing."""

import math
from collections.abc import Collection
from typing import Protocol

from data_pipeline.manifest import INDEX_NAME, MANIFEST_NAME
from data_pipeline.stores.cache_layout import ORIGIN_NAME, BatchKey, CachedFile

NOW = -1.0
"""Next use of what the current window holds: such files stay. Other uses are positions in the stream, from 0."""

SPILLED = -0.5
"""Next use of what one sequence of the current window runs into behind its shard: goes last of all that may go."""

UNKNOWN = float(2**62)
"""Next use of what others read: later than all the asking stream reads, and then the oldest goes first."""

NEVER = math.inf
"""Next use of what nobody will miss."""


class Uses(Protocol):
    """When the asking stream uses what."""

    def next_use(self, key: BatchKey) -> float:
        """Return NOW for the current window, positions for what is read later, UNKNOWN for all else."""
        ...

    def is_own(self, dataset: str) -> bool:
        """Whether the stream reads this dataset, and so needs its small files."""
        ...


class OnceThrough:
    """The uses of a stream without windows, such as held-out text: it reads on, and keeps nothing back for itself."""

    def __init__(self, datasets: Collection[str], shards: Collection[str]) -> None:
        """`shards` are the names of the shards that it reads."""
        self._datasets, self._shards = frozenset(datasets), frozenset(shards)

    def next_use(self, key: BatchKey) -> float:
        """Let its own go before what other streams have gathered."""
        return NEVER if key.dataset in self._datasets and key.shard in self._shards else UNKNOWN

    def is_own(self, dataset: str) -> bool:
        """Whether it reads this dataset."""
        return dataset in self._datasets


def choose_victims(files: Collection[CachedFile], uses: Uses, *, later_than: float) -> list[CachedFile]:
    """Return what may go for something that is used at `later_than`, farthest next use first, then oldest first.

    Never a file that is being fetched, and never those by which a dataset of another stream tells its store.
    """
    ranked = [(_next_use(file, uses), file) for file in files]
    chosen = [(use, file) for use, file in ranked if use > later_than]
    return [file for _, file in sorted(chosen, key=lambda pair: (-pair[0], pair[1].modified_ns, pair[1].path))]


def _next_use(file: CachedFile, uses: Uses) -> float:
    if file.is_part or file.path.name in (ORIGIN_NAME, MANIFEST_NAME, INDEX_NAME):
        return NOW
    if file.key is None:
        return NOW if uses.is_own(file.dataset) else UNKNOWN
    return uses.next_use(file.key)
