"""The transforms that need no more than a line of reasoning: Unicode normal form, length, lines."""

import re
import unicodedata

from data_pipeline.config.transforms import FilterLengthConfig, FilterLinesConfig, NormalizeUnicodeConfig
from data_pipeline.transforms.transform import Dropped

# A letter of any script: what `\w` matches, less digits and the underscore.
_LETTER = re.compile(r"[^\W\d_]")


class NormalizeUnicode:
    """Writes equal characters in one way. Applying it twice is applying it once."""

    def __init__(self, config: NormalizeUnicodeConfig) -> None:
        self._form = config.form

    def apply(self, text: str) -> str | Dropped:
        """Return the text in its normal form; the same object if it has it already."""
        return text if unicodedata.is_normalized(self._form, text) else unicodedata.normalize(self._form, text)


class FilterLength:
    """Drops `too_short` and `too_long` documents."""

    def __init__(self, config: FilterLengthConfig) -> None:
        self._config = config

    def apply(self, text: str) -> str | Dropped:
        """Return the text itself, or why it is dropped."""
        if len(text) < self._config.min_characters:
            return Dropped("too_short")
        if self._config.max_characters is not None and len(text) > self._config.max_characters:
            return Dropped("too_long")
        return text


class FilterLines:
    """Leaves lines out. A document of which no line but blank ones is left is dropped as `empty`.

    Lines end at a line feed alone, so that a Windows line keeps its two characters and a form feed is no end.
    """

    def __init__(self, config: FilterLinesConfig) -> None:
        self._config = config

    def apply(self, text: str) -> str | Dropped:
        """Return the lines that stay, with their ends; the same object if all do."""
        lines = text.split("\n")
        # All but the last one end with a line feed, which goes with its line.
        ended = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
        kept = [whole for whole, line in zip(ended, lines, strict=True) if self._keeps(line)]
        if not any(line.strip() for line in kept):
            return Dropped("empty")
        return text if len(kept) == len(lines) else "".join(kept)

    def _keeps(self, line: str) -> bool:
        line = line.strip()
        if not line:
            return self._config.keeps_blank_lines
        if len(line) < self._config.min_characters:
            return False
        if self._config.max_characters is not None and len(line) > self._config.max_characters:
            return False
        return not self._config.needs_letter or _LETTER.search(line) is not None
