"""Where a sample lies, and the order of held-out data; the order of training is `training_order.py`.

Holds no state and no index: any position costs the same, and every world size sees one order. Reads no file.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_pipeline.mixture import Mixture
from data_pipeline.permutation import permute

Int64 = npt.NDArray[np.int64]

ORDER_VERSION = 2
"""Raised with any change that moves a sample: a resume across versions is refused."""

# Held-out data is drawn by its sizes, in short blocks, so that the first few sequences stand for all of it.
_HELD_OUT_BLOCK_SAMPLES = 64


@dataclass(frozen=True)
class Locations:
    """Where N samples lie: the source, the pass over it, and the sequence in it, each int64 [N]."""

    sources: Int64
    epochs: Int64
    sequences: Int64


class Order(Protocol):
    """Anything that says where a sample lies."""

    def locate(self, positions: Int64) -> Locations:
        """Answer for int64 [N] positions, all at least 0."""
        ...


@dataclass(frozen=True)
class FixedOrder:
    """The order of held-out data: each sequence once, no seed; several sources are mixed by their sizes.

    So the first sequences stand for all sources, and one source is read from its start.
    """

    num_sequences: tuple[int, ...]
    """Sequences of each source; one of them may have none."""

    def locate(self, positions: Int64) -> Locations:
        """Answer for int64 [N] positions, each in [0, sum of num_sequences)."""
        filled = [source for source, size in enumerate(self.num_sequences) if size]
        if len(filled) == 1:
            zeros = np.zeros_like(positions)
            return Locations(zeros + filled[0], zeros, positions)
        sizes = [self.num_sequences[source] for source in filled]
        mixture = Mixture.from_weights(sizes, smallest_block_samples=_HELD_OUT_BLOCK_SAMPLES)
        chosen, sequences = _draw_all(mixture, sum(sizes), positions)
        return Locations(np.array(filled, dtype=np.int64)[chosen], np.zeros_like(sequences), sequences)


def _draw_all(mixture: Mixture, num_samples: int, positions: Int64) -> tuple[Int64, Int64]:
    """Answer the source of each position and its ordinal in it; at `num_samples` every source has given all it has."""
    blocks, slots = np.divmod(positions, mixture.block_samples)
    sources, ordinals = np.empty_like(slots), np.empty_like(slots)
    for block in np.unique(blocks).tolist():
        inside = blocks == block
        start = block * mixture.block_samples
        end = min(start + mixture.block_samples, num_samples)
        before = mixture.drawn_before(start)
        ends = np.cumsum(mixture.drawn_before(end) - before)
        slot = permute(slots[inside], end - start, seed=0, tag=f"block {block}")
        source = np.searchsorted(ends, slot, side="right").astype(np.int64)
        sources[inside] = source
        ordinals[inside] = before[source] + slot - np.concatenate(([0], ends[:-1]))[source]
    return sources, ordinals
