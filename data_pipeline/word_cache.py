"""An exact memory in front of SentencePiece: the ids of a stretch of text are looked up.

BPE joins two neighbours only where the result is a piece of the vocabulary. Where no piece has two given characters
side by side, a text may be cut between them: the ids of the parts are the ids of the whole. `find_cut` checks a
vocabulary for that, and answers None where texts must be encoded whole.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.sentencepiece_file import ModelFacts

# SentencePiece writes a space as this character inside its pieces.
WORD_MARK = "▁"
_SPACES = (WORD_MARK, " ")
# ASCII control characters that text has, digits, and ASCII punctuation.
_SYMBOLS = r"\n\t\r!-@\[-`{-~"
_IS_SYMBOL = re.compile(f"[{_SYMBOLS}]")
# Before each run of spaces; and, better where allowed, between symbols and everything else as well: a third of the
# misses, since `self.name):` is then no word of its own.
_CUT_AT_SPACES = re.compile(" *[^ ]+| +")
_CUT_AT_SYMBOLS = re.compile(f" *[^ {_SYMBOLS}]+| *[{_SYMBOLS}]+| +")
# Some 200 bytes an entry: 100 MB a worker. Past it the memory is emptied, and fills again within seconds.
_MOST_ENTRIES = 500_000
# A longer stretch (base64, Chinese without spaces) hardly comes twice.
_MOST_SEGMENT_CHARACTERS = 64
# The list of a text's segments takes some ten times its bytes, so a long text is taken in parts.
_PART_CHARACTERS = 1_000_000
_PART_START = re.compile("(?<=[^ ]) ")

EncodeMany = Callable[[list[str]], Iterable[Sequence[int]]]
"""Encodes texts one by one, without any memory."""


def find_cut(facts: ModelFacts) -> re.Pattern[str] | None:
    """Return what matches the stretches that a text may be cut into without changing its ids; None: no cut is exact.

    Byte fallback is needed too: without it SentencePiece merges neighbouring unknown characters into one id.
    """
    if not (facts.is_bpe and facts.has_byte_fallback and facts.keeps_text):
        return None
    neighbours = {pair for piece in facts.pieces for pair in pairwise(piece)}
    neighbours = {(before, after) for before, after in neighbours if before not in _SPACES}
    if any(after in _SPACES for _, after in neighbours):
        return None
    mixed = any(_is_symbol(before) != _is_symbol(after) for before, after in neighbours)
    return _CUT_AT_SPACES if mixed else _CUT_AT_SYMBOLS


def can_cache(facts: ModelFacts) -> bool:
    """Whether texts may be cut before each run of spaces without changing their ids."""
    return find_cut(facts) is not None


def _is_symbol(character: str) -> bool:
    return _IS_SYMBOL.match(character) is not None


class WordCache:
    """Encodes texts through a bounded memory. The ids are those of `encode_many`, whatever was encoded before."""

    def __init__(
        self,
        encode_many: EncodeMany,
        cut: re.Pattern[str] | None,
        dtype: npt.DTypeLike,
        *,
        most_entries: int = _MOST_ENTRIES,
    ) -> None:
        self._encode_many = encode_many
        self._cut = cut
        self._dtype = np.dtype(dtype)
        self._most_entries = most_entries
        # The ids of a segment as bytes: joining bytes makes no object per token.
        self._known: dict[str, bytes] = {}

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Encode many texts, each to [its tokens] of the cache's dtype, read-only."""
        if self._cut is None:
            return [np.array(ids, self._dtype) for ids in self._encode_many(list(texts))]
        if all(len(text) <= _PART_CHARACTERS for text in texts):
            return self._encode_parts(texts)
        return [np.concatenate([self._encode_parts([part])[0] for part in _parts(text)]) for text in texts]

    def _encode_parts(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        assert self._cut is not None
        segments = [self._cut.findall(text) for text in texts]
        known = self._known
        find = known.__getitem__
        unknown = set().union(*segments).difference(known)
        if len(known) + len(unknown) > self._most_entries:
            known.clear()
            unknown = set().union(*segments)
        self._learn(list(unknown))
        encoded = [np.frombuffer(b"".join(map(find, found)), self._dtype) for found in segments]
        for segment in unknown:
            if len(segment) > _MOST_SEGMENT_CHARACTERS:
                del known[segment]
        return encoded

    def _learn(self, segments: list[str]) -> None:
        if segments:
            typecode = self._dtype.char
            ids = self._encode_many(segments)
            self._known.update(
                (segment, array(typecode, one).tobytes()) for segment, one in zip(segments, ids, strict=True)
            )


def _parts(text: str) -> Iterable[str]:
    """Cut a text where a run of spaces starts, every million characters or so."""
    start = 0
    while start < len(text):
        found = _PART_START.search(text, start + _PART_CHARACTERS)
        end = found.start() if found else len(text)
        yield text[start:end]
        start = end
    if not text:
        yield text
