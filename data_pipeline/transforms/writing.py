"""How scripts write words: with spaces between them, or without, as Chinese, Japanese and Thai.

A *word* here is what stands between spaces, except that each character of a script without spaces is a word of its
own. No dictionary is used, so that every language is cut by one rule. Punctuation stays with the word it touches.
"""

import functools
import re
import sys
import unicodedata

# Ranges of the Unicode blocks whose text has no spaces between words. Korean has them, and is not here.
_UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # iteration mark and zero of Han
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # more Bopomofo, strokes, Katakana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA000, 0xA4CF),  # Yi
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x1B000, 0x1B16F),  # more Kana
    (0x20000, 0x323AF),  # Han, extensions B to H
)


def _character_class(blocks: tuple[tuple[int, int], ...]) -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in blocks)


UNSPACED = _character_class(_UNSPACED_BLOCKS)
"""The inside of a regular expression's [...] for characters that are written without spaces."""

_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_UNSPACED_RUN = re.compile(rf"[{UNSPACED}]+")


def split_words(text: str) -> list[str]:
    """Return the words of `text` in order."""
    return _WORD.findall(text)


def split_spaced_words(text: str) -> list[str]:
    """Return the words of `text` that its spaces mark, without those of scripts that have none."""
    return _UNSPACED_RUN.sub(" ", text).split()


def count_unspaced_characters(text: str) -> int:
    """Count the characters of `text` that belong to a script without spaces."""
    return sum(map(len, _UNSPACED_RUN.findall(text)))


def is_unspaced(word: str) -> bool:
    """Whether all of `word` belongs to scripts without spaces."""
    return _UNSPACED_RUN.fullmatch(word) is not None


@functools.cache
def whole_word_pattern() -> re.Pattern[str]:
    """Return what a whole word is where words have spaces: letters, digits and marks, with - and ' between them."""
    letters, marks = rf"[^\W{UNSPACED}]", f"[{_marks()}]"
    word = rf"{letters}+(?:{marks}+{letters}*)*"
    return re.compile(rf"{word}(?:['’\-]{word})*")


def _marks() -> str:
    """Return the inside of [...] for combining marks, which Python's `\\w` leaves out."""
    is_mark = [unicodedata.category(chr(point))[0] == "M" for point in range(sys.maxunicode + 1)]
    starts = [point for point in range(1, len(is_mark)) if is_mark[point] and not is_mark[point - 1]]
    ends = [point for point in range(len(is_mark) - 1) if is_mark[point] and not is_mark[point + 1]]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))
