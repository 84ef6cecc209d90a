"""Looks samples up many at a time, and keeps what was found for the neighbours that are asked for next."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from data_pipeline.order import Locations, Order

Int64 = npt.NDArray[np.int64]

# Permuting thousands at a time costs numpy little more than permuting eight.
_RANGE_SAMPLES = 8192
# But every epoch is a permutation of its own, so a range holds few epochs of a tiny source.
_LEAST_RANGE_SAMPLES = 64
_MOST_RANGE_EPOCHS = 4
# Ranks and micro-batches of one step touch neighbouring ranges.
_MOST_RANGES = 4


class LocationCache:
    """An order with a memory of a few thousand samples."""

    def __init__(self, order: Order, *, num_sequences: int, num_samples: int | None) -> None:
        """`num_samples`: where the order ends, if it does."""
        self._order = order
        self._num_samples = num_samples
        self._range_samples = min(_RANGE_SAMPLES, max(_LEAST_RANGE_SAMPLES, _MOST_RANGE_EPOCHS * num_sequences))
        self._ranges: OrderedDict[int, Locations] = OrderedDict()

    def locate_range(self, first: int, end: int) -> Locations:
        """Say where the samples `first` to `end` - 1 lie; `end` must be after `first`."""
        number, place = divmod(first, self._range_samples)
        if end - first <= self._range_samples - place:
            located, chosen = self._range(number), slice(place, place + end - first)
            return Locations(located.sources[chosen], located.epochs[chosen], located.sequences[chosen])
        return self.locate(np.arange(first, end, dtype=np.int64))

    def locate(self, samples: Int64) -> Locations:
        """Say where the samples int64 [N] lie."""
        numbers, places = np.divmod(samples, self._range_samples)
        found = np.empty((3, len(samples)), dtype=np.int64)
        for number in np.unique(numbers).tolist():
            inside = numbers == number
            located, chosen = self._range(number), places[inside]
            found[0, inside] = located.sources[chosen]
            found[1, inside] = located.epochs[chosen]
            found[2, inside] = located.sequences[chosen]
        return Locations(found[0], found[1], found[2])

    def _range(self, number: int) -> Locations:
        located = self._ranges.get(number)
        if located is None:
            start, end = number * self._range_samples, (number + 1) * self._range_samples
            if self._num_samples is not None:
                end = min(end, self._num_samples)
            located = self._ranges[number] = self._order.locate(np.arange(start, end, dtype=np.int64))
            if len(self._ranges) > _MOST_RANGES:
                self._ranges.popitem(last=False)
        self._ranges.move_to_end(number)
        return located
