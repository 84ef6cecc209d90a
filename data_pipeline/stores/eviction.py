"""Which files of a full cache go first: those that are used last. Pure; removes nothing."""

import math
from collections.abc import Collection
from typing import Protocol

from data_pipeline.stores.cache_layout import ORIGIN_NAME, BatchKey, CachedFile

NOW = 0.0
"""Next use of what the current window holds: such files stay."""

NEVER = math.inf
"""Next use of what the asking stream does not read."""


class Uses(Protocol):
    """When the asking stream uses what."""

    def next_use(self, key: BatchKey) -> float:
        """Return NOW for the current window, later windows in rising order, NEVER for all else."""
        ...

    def is_own(self, dataset: str) -> bool:
        """Whether the stream reads this dataset, and so needs its small files."""
        ...


def choose_victims(files: Collection[CachedFile], uses: Uses, *, later_than: float) -> list[CachedFile]:
    """Return what may go for something that is used at `later_than`, farthest next use first, then oldest first.

    Never a file that is being fetched, and never those by which a dataset of another stream tells its store.
    """
    ranked = [(_next_use(file, uses), file) for file in files]
    chosen = [(use, file) for use, file in ranked if use > later_than]
    return [file for _, file in sorted(chosen, key=lambda pair: (-pair[0], pair[1].modified_ns, pair[1].path))]


def _next_use(file: CachedFile, uses: Uses) -> float:
    if file.is_part or file.path.name in (ORIGIN_NAME, "manifest.json"):
        return NOW
    if file.key is None:
        return NOW if uses.is_own(file.path.parent.name) else NEVER
    return uses.next_use(file.key)
