"""Drops documents that repeat themselves: the same lines, paragraphs or runs of words (Gopher, arXiv 2112.11446).

The paper's table A1 gives the limits; its words are what spaces divide. Here text without spaces is measured as well:
a run of n words is a run of 2 n characters where most words are single characters, since a Chinese word has about two.
"""

import re
from collections.abc import Iterator, Sequence
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
        runs = _Runs(words)
        # In mixed text the majority decides.
        is_unspaced = 2 * count_unspaced_characters(text) > len(words)
        scale = _CHARACTERS_OF_A_WORD if is_unspaced else 1
        for limit in self._config.top_ngrams:
            if runs.top_share(limit.num_words * scale) > limit.max_share:
                yield "top_ngram"
        for limit in self._config.duplicate_ngrams:
            if runs.duplicate_share(limit.num_words * scale) > limit.max_share:
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


class _Runs:
    """The words of one document as numbers, to find the runs that repeat."""

    def __init__(self, words: list[str]) -> None:
        numbers: dict[str, int] = {}
        self._words: Any = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)
        lengths = np.array([len(word) for word in words], dtype=np.int64)
        # Characters before each word, so that a run's are a difference.
        self._characters_before = np.concatenate(([0], np.cumsum(lengths)))

    def top_share(self, num_words: int) -> float:
        """Return the share of characters in the most frequent run; the longest of those that are equally frequent."""
        groups = self._groups(num_words)
        if groups is None:
            return 0.0
        first, _, counts = groups
        most = int(counts.max())
        if most < 2:
            return 0.0
        characters = self._characters_of(first[counts == most], num_words)
        return float(most * int(characters.max()) / self._characters_before[-1])

    def duplicate_share(self, num_words: int) -> float:
        """Return the share of characters in runs that occurred before; one that overlaps another counts once."""
        groups = self._groups(num_words)
        if groups is None:
            return 0.0
        first, group_of, _ = groups
        is_duplicate = np.ones(len(group_of), dtype=bool)
        is_duplicate[first] = False
        starts = np.flatnonzero(is_duplicate)
        if not len(starts):
            return 0.0
        depth = np.zeros(len(self._words) + 1, dtype=np.int64)
        depth[starts] += 1
        depth[starts + num_words] -= 1
        lengths = np.diff(self._characters_before)
        return float(lengths[np.cumsum(depth)[:-1] > 0].sum() / self._characters_before[-1])

    def _characters_of(self, starts: Int64, num_words: int) -> Int64:
        return np.asarray(self._characters_before[starts + num_words] - self._characters_before[starts])

    def _groups(self, num_words: int) -> tuple[Int64, Int64, Int64] | None:
        """Group equal runs: (first place of each group, group of each place, size of each group)."""
        num_runs = len(self._words) - num_words + 1
        if num_runs < 2:
            return None
        hashes = np.zeros(num_runs, dtype=np.uint64)
        for offset in range(num_words):
            hashes = (hashes ^ self._words[offset : offset + num_runs]) * _MULTIPLIER
            hashes = (hashes ^ (hashes >> np.uint64(29))) * _MIXER
        _, first, group_of, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
        return first, group_of, counts
