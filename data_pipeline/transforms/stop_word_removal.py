"""Takes stop words out of a text, for people who prepare text for search or classification that way.

Harmful for generation: a model that never saw "the" cannot write it. Words of scripts with spaces go where they stand
whole, in any case; Chinese words go from inside runs of Chinese characters, the longest match first. A text that mixes
scripts has both done to it, each in its own places.
"""

import re
from collections.abc import Sequence

from data_pipeline.config.transforms import RemoveStopWordsConfig
from data_pipeline.transforms.stop_word_lists import words_of
from data_pipeline.transforms.transform import Dropped
from data_pipeline.transforms.writing import is_unspaced, whole_word_pattern


class RemoveStopWords:
    """Removes the words of a list. Never drops a document, but may leave it empty."""

    def __init__(self, config: RemoveStopWordsConfig) -> None:
        words = words_of(config)
        self._spaced = {_folded(word) for word in words if not is_unspaced(word)}
        self._unspaced = _longest_first([word for word in words if is_unspaced(word)])

    def apply(self, text: str) -> str | Dropped:
        """Return the text without the words; the same object if it has none of them."""
        if self._unspaced is not None:
            text = self._unspaced.sub("", text)
        return self._without_spaced_words(text) if self._spaced else text

    def _without_spaced_words(self, text: str) -> str:
        kept: list[str] = []
        done = 0
        for match in whole_word_pattern().finditer(text):
            if _folded(match.group()) not in self._spaced:
                continue
            kept.append(text[done : match.start()])
            done = match.end()
            if done < len(text) and text[done] in " \t" and _ends_open(kept):
                # "sat on the mat": the word goes with the spaces after it.
                while done < len(text) and text[done] in " \t":
                    done += 1
            elif done == len(text) or text[done] in ".,;:!?)]}\r\n":
                # "what is it for.": with those before it, but a line's indentation stays.
                _drop_trailing_spaces(kept)
        return "".join([*kept, text[done:]]) if kept else text


def _folded(word: str) -> str:
    return word.casefold().replace("’", "'")


def _ends_open(kept: list[str]) -> bool:
    """Whether what was kept ends where no space is wanted: at the start, after white space or an opening bracket."""
    last = next((part for part in reversed(kept) if part), "")
    return not last or last[-1].isspace() or last[-1] in "([{\"'“‘«"


def _drop_trailing_spaces(kept: list[str]) -> None:
    place = next((number for number in range(len(kept) - 1, -1, -1) if kept[number]), None)
    if place is None:
        return
    stripped = kept[place].rstrip(" \t")
    if stripped and not stripped.endswith("\n"):
        kept[place] = stripped


def _longest_first(words: Sequence[str]) -> re.Pattern[str] | None:
    """Return a pattern that, at each place, takes the longest of `words`."""
    if not words:
        return None
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word))))
