"""Drops documents by what their characters are: letters, digits, punctuation, symbols, spaces. Knows no language.

Every script's letters are letters, and nothing is asked of words that spaces do not mark, so that Chinese, Japanese
and Thai text passes as English does. Categories are those of Python's `unicodedata`.
"""

import functools
import re
import sys
import unicodedata

import numpy as np
import numpy.typing as npt

from data_pipeline.config.transforms import FilterQualityConfig
from data_pipeline.transforms.transform import Dropped
from data_pipeline.transforms.writing import split_spaced_words

_OTHER, _SPACE, _LETTER, _DIGIT, _PUNCTUATION, _SYMBOL, _CONTROL = range(7)
_NUM_CLASSES = 7
# By the first letter of the general category; a mark belongs to its letter.
_CLASS_OF_CATEGORY = {"L": _LETTER, "M": _LETTER, "N": _DIGIT, "P": _PUNCTUATION, "S": _SYMBOL, "Z": _SPACE}
# Unassigned characters are no fault: they may be assigned in a newer Unicode than this Python's.
_CONTROL_CATEGORIES = ("Cc", "Co", "Cs")
_HANGUL_SYLLABLE = re.compile("[가-힣]")
_HASH_OR_ELLIPSIS = re.compile(r"#|\.{3,}|…+")


class FilterQuality:
    """Drops with the reasons that `_character_fault` and `_word_fault` return."""

    def __init__(self, config: FilterQualityConfig) -> None:
        self._config = config

    def apply(self, text: str) -> str | Dropped:
        """Return the text itself, or why it is dropped."""
        counts = _count_classes(text)
        num_visible = len(text) - counts[_SPACE]
        reason = self._character_fault(counts, num_visible) or self._word_fault(text, num_visible)
        return text if reason is None else Dropped(reason)

    def _character_fault(self, counts: list[int], num_visible: int) -> str | None:
        config = self._config
        if not num_visible or counts[_SPACE] > config.max_whitespace_share * (counts[_SPACE] + num_visible):
            return "much_whitespace"
        if counts[_LETTER] < config.min_letter_share * num_visible:
            return "few_letters"
        limits = (
            (_DIGIT, config.max_digit_share, "many_digits"),
            (_PUNCTUATION, config.max_punctuation_share, "much_punctuation"),
            (_SYMBOL, config.max_symbol_share, "many_symbols"),
            (_CONTROL, config.max_control_share, "control_characters"),
        )
        return next((reason for kind, limit, reason in limits if counts[kind] > limit * num_visible), None)

    def _word_fault(self, text: str, num_visible: int) -> str | None:
        config = self._config
        words = split_spaced_words(text)
        num_characters = sum(map(len, words))
        num_unspaced = num_visible - num_characters
        num_words = len(words) + num_unspaced
        if len(_HASH_OR_ELLIPSIS.findall(text)) > config.max_hashes_and_ellipses_per_word * num_words:
            return "hashes_and_ellipses"
        # Mostly a script without spaces: its few words between spaces say nothing.
        if not words or num_unspaced > num_characters:
            return None
        # A Hangul syllable has two letters or three, so that Korean words look half as long as they are.
        num_characters += len(_HANGUL_SYLLABLE.findall(text))
        if num_characters < config.min_mean_word_characters * len(words):
            return "short_words"
        if num_characters > config.max_mean_word_characters * len(words):
            return "long_words"
        return None


def _count_classes(text: str) -> list[int]:
    """Count the characters of each class."""
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    counts = np.bincount(_class_table()[code_points], minlength=_NUM_CLASSES)
    return [int(count) for count in counts]


@functools.cache
def _class_table() -> npt.NDArray[np.uint8]:
    """Return uint8 [code points]: the class of each. A fifth of a second, once a process."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    for code_point in range(sys.maxunicode + 1):
        table[code_point] = _class_of(chr(code_point))
    return table


def _class_of(character: str) -> int:
    if character.isspace():
        return _SPACE
    category = unicodedata.category(character)
    if category in _CONTROL_CATEGORIES:
        return _CONTROL
    return _CLASS_OF_CATEGORY.get(category[0], _OTHER)
