"""BPE-dropout (arXiv 1910.13267): encodes a text in another way each time, by leaving out merges at random.

The merges are SentencePiece's: the neighbours whose joined piece has the highest score go first, the leftmost of
equals. A merge that comes up is left out, once for all, with probability `dropout`. With 0 the ids are SentencePiece's
own. Written anew here because its sampling cannot be repeated in another process (`keyed_random.py`).
"""

import heapq
import re
from collections.abc import Callable, Iterator

from data_pipeline.augmentation.keyed_random import KeyedRandom
from data_pipeline.errors import DataError
from data_pipeline.sentencepiece_file import ModelFacts, read_model_facts
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.word_cache import WORD_MARK, find_cut

_DRAWS_AT_A_TIME = 1024
# Enough of the vocabulary to find a kind of piece that is encoded otherwise.
_PROBED_PIECES = 2000

Draw = Callable[[], bool]
"""Says of the next merge that comes up whether it is left out."""


class BpeDropout:
    """Encodes with a tokenizer's merges. Raises DataError for a tokenizer that is no plain, lossless BPE."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = tokenizer.pieces()
        self._scores = {piece.text: piece.score for piece in pieces if piece.kind == "normal"}
        self._ids = {piece.text: number for number, piece in enumerate(pieces) if piece.kind == "normal"}
        self._byte_ids = [number for number, piece in enumerate(pieces) if piece.kind == "byte"]
        facts = read_model_facts(tokenizer.path.read_bytes())
        self._cut = self._checked_cut(tokenizer, facts)
        self._check_probe(tokenizer, facts)

    def encode(self, text: str, dropout: float, random: KeyedRandom) -> list[int]:
        """Encode `text`; the ids decode to it whatever was left out."""
        draw = _draws(dropout, random).__next__
        ids: list[int] = []
        for number, part in enumerate(text.split(WORD_MARK)):
            # As `Tokenizer.encode`: a mark of the text is spelled in bytes, since the piece means a space.
            ids += self._spelled(WORD_MARK) if number else ()
            for segment in self._cut.findall(part):
                for piece in self._merge(list(segment.replace(" ", WORD_MARK)), draw):
                    known = self._ids.get(piece)
                    if known is None:
                        ids += self._spelled(piece)
                    else:
                        ids.append(known)
        return ids

    def _spelled(self, piece: str) -> list[int]:
        return [self._byte_ids[byte] for byte in piece.encode()]

    def _merge(self, symbols: list[str], draw: Draw) -> list[str]:
        """Merge single characters into pieces, in place: a symbol that was merged into its left neighbour is empty."""
        count = len(symbols)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        scores = self._scores
        # (minus the score, left place, right place, the joined piece): the smallest is the next merge.
        agenda: list[tuple[float, int, int, str]] = []

        def consider(left: int, right: int) -> None:
            joined = symbols[left] + symbols[right]
            score = scores.get(joined)
            # Drawn as it is found, not as it is done: the same chance, and less to keep.
            if score is not None and not draw():
                heapq.heappush(agenda, (-score, left, right, joined))

        for left in range(count - 1):
            consider(left, left + 1)
        while agenda:
            _, left, right, joined = heapq.heappop(agenda)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != len(joined):
                continue  # one of the two has been merged with its other neighbour
            symbols[left], symbols[right] = joined, ""
            following = after[left] = after[right]
            if following < count:
                before[following] = left
                consider(left, following)
            if before[left] >= 0:
                consider(before[left], left)
        return [symbol for symbol in symbols if symbol]

    def _checked_cut(self, tokenizer: Tokenizer, facts: ModelFacts) -> re.Pattern[str]:
        """Return the stretches of text over whose ends no piece reaches: merged one by one, they are the whole."""
        cut = find_cut(facts)
        if cut is None or len(self._byte_ids) != 256:
            raise DataError(
                f"{tokenizer.path}: subword sampling needs a BPE with byte fallback and without normalisation, whose "
                "pieces hold no space after another character: use a tokenizer of `llama-dist tokenizer train`"
            )
        return cut

    def _check_probe(self, tokenizer: Tokenizer, facts: ModelFacts) -> None:
        probe = "".join(f"{piece} {piece}" for piece in facts.pieces[-_PROBED_PIECES:]).replace(WORD_MARK, " ")
        if self.encode(probe, 0.0, KeyedRandom(0, "probe", b"")) != tokenizer.encode(probe):
            raise DataError(
                f"{tokenizer.path}: encodes its own pieces otherwise than by merging the best pair first (user-defined "
                "or unused pieces do that), so it cannot be sampled: leave out augmentation.subword_sampling"
            )


def _draws(dropout: float, random: KeyedRandom) -> Iterator[bool]:
    while dropout <= 0:
        yield False
    while True:
        yield from (random.shares(_DRAWS_AT_A_TIME) < dropout).tolist()
