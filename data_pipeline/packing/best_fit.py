"""Best-fit decreasing bin packing of document lengths, by counts: fragments of one length are interchangeable.

Pure: lengths in, packs out; reads and writes nothing. The packs are those of the textbook's algorithm, which takes the
fragments one by one from the longest to the shortest and puts each where the least room is left (Johnson, Near-optimal
bin packing algorithms, 1973); here all fragments of a length go at once, so the work depends on T, not on their number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Packs:
    """Packs of fragments. Those made of one piece of a document that goes on come first."""

    bounds: Int64
    """int64 [packs + 1]: pack i holds the fragments bounds[i]:bounds[i + 1]."""

    starts: Int64
    """int64 [fragments]: place of each fragment's first token in the token line."""

    lengths: Int32
    """int32 [fragments]: tokens of each."""

    num_continued: int
    """Packs at the front whose only fragment fills them and is followed by more of its document."""


def pack_documents(document_starts: Int64, document_lengths: Int64, num_tokens: int) -> Packs:
    """Pack documents, int64 [documents] each, into rows of `num_tokens`; each token is in one pack, once.

    A document longer than a row is cut into pieces of a row each and a rest.
    """
    num_whole = document_lengths // num_tokens
    rests = document_lengths - num_whole * num_tokens
    piece_of = np.repeat(np.arange(len(document_starts)), num_whole)
    place = np.arange(len(piece_of)) - np.repeat(np.cumsum(num_whole) - num_whole, num_whole)
    whole_starts = document_starts[piece_of] + place * num_tokens
    continues = (place + 1) * num_tokens < document_lengths[piece_of]
    whole_starts = np.concatenate((whole_starts[continues], whole_starts[~continues]))

    kept = np.flatnonzero(rests)
    # Longest first; documents of one length stay in their order, which makes the result the same everywhere.
    kept = kept[np.argsort(-rests[kept], kind="stable")]
    bins, num_bins = assign_bins(rests[kept], num_tokens)
    by_bin = np.argsort(bins, kind="stable")
    kept = kept[by_bin]
    rest_starts = document_starts[kept] + num_whole[kept] * num_tokens

    ends = np.cumsum(np.bincount(bins, minlength=num_bins)) + len(whole_starts)
    return Packs(
        bounds=np.concatenate((np.arange(len(whole_starts) + 1), ends)).astype(np.int64),
        starts=np.concatenate((whole_starts, rest_starts)).astype(np.int64),
        lengths=np.concatenate((np.full(len(whole_starts), num_tokens), rests[kept])).astype(np.int32),
        num_continued=int(np.count_nonzero(continues)),
    )


def assign_bins(lengths: Int64, capacity: int) -> tuple[Int64, int]:
    """Return the bin of each of falling int64 [N] `lengths`, all in 1..capacity, and the number of bins."""
    bins = np.empty(len(lengths), dtype=np.int64)
    rooms = _Rooms(capacity)
    edges = np.flatnonzero(np.diff(lengths)) + 1
    for first, end in zip([0, *edges.tolist()], [*edges.tolist(), len(lengths)], strict=True):
        if first < end:
            bins[first:end] = rooms.place(int(lengths[first]), end - first)
    return bins, rooms.num_bins


class _Rooms:
    """The open bins by the room that is left in them."""

    def __init__(self, capacity: int) -> None:
        self.num_bins = 0
        self._capacity = capacity
        self._by_room: dict[int, list[Int64]] = {}
        # Bit r is set if some bin has room r: the least room that suffices is one shift away.
        self._present = 0

    def place(self, length: int, count: int) -> Int64:
        """Put `count` fragments of `length` each where the least room is left; int64 [count] bins."""
        placed: list[Int64] = []
        while count:
            room, bins = self._take(length, count)
            # A bin that took one has the least room of all now, so it takes on until it is too full.
            each = room // length
            num_full = min(len(bins), count // each)
            placed.append(np.repeat(bins[:num_full], each))
            self._put(room - each * length, bins[:num_full])
            count -= num_full * each
            bins = bins[num_full:]
            if count and len(bins):
                placed.append(np.repeat(bins[:1], count))
                self._put(room - count * length, bins[:1])
                bins, count = bins[1:], 0
            self._put(room, bins)
        return np.concatenate(placed)

    def _take(self, length: int, count: int) -> tuple[int, Int64]:
        """Take out the bins of the least room that is enough, or open as many as `count` fragments need."""
        enough = self._present >> length
        if not enough:
            num_new = -(-count // (self._capacity // length))
            self.num_bins += num_new
            return self._capacity, np.arange(self.num_bins - num_new, self.num_bins, dtype=np.int64)
        room = length + (enough & -enough).bit_length() - 1
        self._present &= ~(1 << room)
        parts = self._by_room.pop(room)
        return room, np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _put(self, room: int, bins: Int64) -> None:
        if room and len(bins):
            self._by_room.setdefault(room, []).append(bins)
            self._present |= 1 << room
