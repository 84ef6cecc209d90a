"""A bounded sample of a corpus that depends on the documents alone, not on the files or their order.

The text is cut into chunks, and the chunks with the smallest hashes are kept. Trains nothing.
"""

import heapq
from collections.abc import Iterator

import xxhash

# Short enough that one huge document is sampled like many small ones; long enough to hold whole paragraphs.
_CHUNK_CHARACTERS = 8192


class TextSample:
    """Keeps the chunks of smallest hash, as many as fit into `most_bytes`. A document that comes twice counts once."""

    def __init__(self, most_bytes: int) -> None:
        self.num_bytes = 0
        self.num_seen_bytes = 0
        self._most_bytes = most_bytes
        self._chunks: dict[int, str] = {}
        self._largest_first: list[int] = []
        # No hash from here on is taken again, else the sample would depend on what came first.
        self._cutoff = 1 << 128

    def add(self, text: str, utf8: bytes) -> None:
        """Offer one document."""
        self.num_seen_bytes += len(utf8)
        document_hash = xxhash.xxh3_128_digest(utf8)
        for number, chunk in enumerate(cut_at_lines(text, _CHUNK_CHARACTERS)):
            chunk_hash = xxhash.xxh3_128_intdigest(document_hash + number.to_bytes(8, "little"))
            if chunk_hash < self._cutoff and chunk_hash not in self._chunks:
                self._chunks[chunk_hash] = chunk
                self.num_bytes += len(chunk.encode())
                heapq.heappush(self._largest_first, -chunk_hash)
                self._drop_excess()

    def chunks(self) -> Iterator[str]:
        """Yield the kept chunks in the order of their hashes."""
        for chunk_hash in sorted(self._chunks):
            yield self._chunks[chunk_hash]

    def _drop_excess(self) -> None:
        while self.num_bytes > self._most_bytes:
            self._cutoff = -heapq.heappop(self._largest_first)
            self.num_bytes -= len(self._chunks.pop(self._cutoff).encode())


def cut_at_lines(text: str, most_characters: int) -> Iterator[str]:
    """Cut `text` into parts of at most `most_characters`, after a line's end where there is one."""
    start = 0
    while start < len(text):
        end = min(start + most_characters, len(text))
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end
