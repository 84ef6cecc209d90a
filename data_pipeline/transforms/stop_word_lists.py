"""The lists of stop words: two that come with the package, and files of the user's own."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from data_pipeline.config.transforms import RemoveStopWordsConfig, TransformConfig
from data_pipeline.errors import DataError
from data_pipeline.transforms.writing import is_unspaced, whole_word_pattern

_PACKAGED = ("english", "chinese")


def words_of(config: RemoveStopWordsConfig) -> list[str]:
    """Return the words of a config, from its list if it does not hold them. Raises DataError for an unusable list."""
    if config.words is not None:
        return _checked(config.words, "words")
    assert config.list is not None
    return read_word_list(config.list)


def with_recorded_words(transforms: Sequence[TransformConfig]) -> list[TransformConfig]:
    """Put the words of each list into the config, so that its hash covers them and no worker needs the file."""
    return [
        one.model_copy(update={"words": words_of(one)}) if isinstance(one, RemoveStopWordsConfig) else one
        for one in transforms
    ]


def read_word_list(name: str) -> list[str]:
    """Read `english`, `chinese`, or a UTF-8 file with a word a line; lines that start with # are comments."""
    if name in _PACKAGED:
        content = (files("data_pipeline.transforms") / "stop_words" / f"{name}.txt").read_bytes()
    else:
        try:
            content = Path(name).read_bytes()
        except OSError as error:
            raise DataError(
                f"{name}: the list of stop words cannot be read: {error.strerror}: "
                f"give a file with a word a line, or one of {', '.join(_PACKAGED)}"
            ) from None
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 at byte {error.start}: save the list of stop words as UTF-8") from None
    return _checked([line.strip() for line in lines if line.strip() and not line.startswith("#")], name)


def _checked(words: Sequence[str], name: str) -> list[str]:
    if not words:
        raise DataError(f"{name}: holds no word, needs a word a line")
    for number, word in enumerate(words):
        if not is_unspaced(word) and not whole_word_pattern().fullmatch(word):
            raise DataError(
                f"{name}: stop word {number + 1} is {word!r}, needs one word of letters and digits, "
                "of scripts with spaces or of scripts without: write a word a line"
            )
    # In one order whatever the file's, so that the same words are the same preparation.
    return sorted(set(words))
