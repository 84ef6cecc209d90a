"""Drops documents that repeat themselves: the same lines, paragraphs or runs of words (Gopher, arXiv 2112.11446).

The paper's table A1 gives the limits; its words are what spaces divide. Here text without spaces is measured as well:
a run of n words is a run of 2 n characters where most words are single characters, since a Chinese word has about two.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.config.transforms import FilterRepetitionConfig
from data_pipeline.transforms.transform import Dropped
from data_pipeline.transforms.writing import count_unspaced_characters, split_words

Int64 = npt.NDArray[np.int64]
_PARAGRAPH_END = re.compile(r"\n\s*\n")
# An odd multiplier with well mixed bits (the golden ratio of 2^64): runs are compared by a 64-bit hash of their words.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xBF58476D1CE4E5B9)
_CHARACTERS_OF_A_WORD = 2


class FilterRepetition:
    """Drops with the reasons `duplicate_lines`, `duplicate_paragraphs`, `top_ngram` and `duplicate_ngrams`."""

    def __init__(self, config: FilterRepetitionConfig) -> None:
        self._config = config

    def apply(self, text: str) -> str | Dropped:
        """Return the text itself, or why it is dropped."""
        config = self._config
        lines = _stripped(text.split("\n"))
        if _exceeds(lines, config.max_duplicate_line_share, config.max_duplicate_line_character_share):
            return Dropped("duplicate_lines")
        paragraphs = _stripped(_PARAGRAPH_END.split(text))
        if _exceeds(paragraphs, config.max_duplicate_paragraph_share, config.max_duplicate_paragraph_character_share):
            return Dropped("duplicate_paragraphs")
        reason = next(self._repeated_runs(text), None)
        return text if reason is None else Dropped(reason)

    def _repeated_runs(self, text: str) -> Iterator[str]:
        words = split_words(text)
        if not words or len(words) < self._config.min_ngram_words:
            return
        # In mixed text the majority decides.
        is_unspaced = 2 * count_unspaced_characters(text) > len(words)
        scale = _CHARACTERS_OF_A_WORD if is_unspaced else 1
        top = [(limit.num_words * scale, limit.max_share) for limit in self._config.top_ngrams]
        duplicate = [(limit.num_words * scale, limit.max_share) for limit in self._config.duplicate_ngrams]
        runs = _Runs(words)
        for repeated in runs.repeated(max((num_words for num_words, _ in top + duplicate), default=0)):
            if any(runs.top_share(repeated) > share for num_words, share in top if num_words == repeated.num_words):
                yield "top_ngram"
            limits = [share for num_words, share in duplicate if num_words == repeated.num_words]
            if limits and runs.duplicate_share(repeated) > min(limits):
                yield "duplicate_ngrams"


def _stripped(parts: Sequence[str]) -> list[str]:
    return [part for whole in parts if (part := whole.strip())]


def _exceeds(parts: list[str], max_share: float, max_character_share: float) -> bool:
    """Whether too many of `parts`, or of their characters, are in parts that occurred before."""
    if not parts:
        return False
    distinct = dict.fromkeys(parts)
    num_characters = sum(map(len, parts))
    duplicate_characters = num_characters - sum(map(len, distinct))
    return (
        len(parts) - len(distinct) > max_share * len(parts)
        or duplicate_characters > max_character_share * num_characters
    )


def _mixed(hashes: Any) -> Any:
    """Spread uint64 [runs] over all their bits, so that a word more can be joined by xor."""
    hashes = hashes * _MULTIPLIER
    return (hashes ^ (hashes >> np.uint64(29))) * _MIXER


@dataclass(frozen=True)
class _Repeated:
    """The runs of one length that occur more than once."""

    num_words: int
    first: Int64
    """First place of each, [runs]."""
    counts: Int64
    """How often each occurs, [runs]."""
    later: Int64
    """All places but the first ones."""


class _Runs:
    """The words of one document as numbers, to find the runs that repeat."""

    def __init__(self, words: list[str]) -> None:
        numbers: dict[str, int] = {}
        self._words: Any = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)
        lengths = np.array([len(word) for word in words], dtype=np.int64)
        # Characters before each word, so that a run's are a difference.
        self._characters_before = np.concatenate(([0], np.cumsum(lengths)))

    def repeated(self, max_words: int) -> Iterator[_Repeated]:
        """Yield the repeated runs of 1, 2, ... words, as long as there are any."""
        places = np.arange(len(self._words))
        hashes = _mixed(self._words)
        for num_words in range(1, max_words + 1):
            if num_words > 1:
                # A run can only repeat where its first words do: few places are left to look at.
                inside = places + num_words <= len(self._words)
                places, hashes = places[inside], hashes[inside]
                hashes = _mixed(hashes ^ self._words[places + num_words - 1])
            order = np.argsort(hashes)
            hashes, places = hashes[order], places[order]
            starts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))[: len(hashes)]
            counts = np.diff(np.append(starts, len(hashes)))
            if not (counts > 1).any():
                return
            is_repeated = np.repeat(counts > 1, counts)
            first = np.minimum.reduceat(places, starts)
            later = places[is_repeated & (places != np.repeat(first, counts))]
            yield _Repeated(num_words, first[counts > 1], counts[counts > 1], later)
            places, hashes = places[is_repeated], hashes[is_repeated]

    def top_share(self, runs: _Repeated) -> float:
        """Return the share of characters in the most frequent run; the longest of those that are equally frequent."""
        most = runs.counts.max()
        starts = runs.first[runs.counts == most]
        characters = self._characters_before[starts + runs.num_words] - self._characters_before[starts]
        return float(most * characters.max() / self._characters_before[-1])

    def duplicate_share(self, runs: _Repeated) -> float:
        """Return the share of characters in runs that occurred before; one that overlaps another counts once."""
        depth = np.bincount(runs.later, minlength=len(self._words) + 1)
        depth -= np.bincount(runs.later + runs.num_words, minlength=len(self._words) + 1)
        lengths = np.diff(self._characters_before)
        return float(lengths[np.cumsum(depth)[:-1] > 0].sum() / self._characters_before[-1])
