"""The transforms of a config, in their order, with a count of what each did. Reads and writes no file."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from data_pipeline.config import TransformConfig
from data_pipeline.transforms.counts import TransformCount
from data_pipeline.transforms.deduplication import Deduplicate, Keeps
from data_pipeline.transforms.plain_filters import FilterLength, FilterLines, NormalizeUnicode
from data_pipeline.transforms.quality_filter import FilterQuality
from data_pipeline.transforms.repetition_filter import FilterRepetition
from data_pipeline.transforms.stop_word_removal import RemoveStopWords
from data_pipeline.transforms.transform import Dropped, Transform


class TransformChain:
    """Applies transforms to one document after another. A text that one leaves empty is dropped there, as `empty`."""

    def __init__(self, transforms: Sequence[TransformConfig], keeps: Keeps | None = None) -> None:
        """`keeps` answers for `deduplicate`, and is needed if the chain has one.

        Raises DataError for a list of stop words that cannot be read.
        """
        self._steps = [_Step(one.kind, _build(one, keeps)) for one in transforms]

    def apply(self, text: str) -> str | Dropped:
        """Return what the chain makes of `text`; the same object if nothing changed."""
        if not self._steps:
            return text
        num_bytes = len(text.encode())
        for step in self._steps:
            result, num_bytes_after = step.apply(text, num_bytes)
            if isinstance(result, Dropped):
                return result
            text, num_bytes = result, num_bytes_after
        return text

    def counts(self) -> list[TransformCount]:
        """Return what each transform did so far, in the chain's order."""
        return [step.count() for step in self._steps]


class _Step:
    """One transform with its counters."""

    def __init__(self, kind: str, transform: Transform) -> None:
        self._kind = kind
        self._transform = transform
        self._documents = [0, 0]
        self._bytes = [0, 0]
        self._dropped: Counter[str] = Counter()

    def apply(self, text: str, num_bytes: int) -> tuple[str | Dropped, int]:
        self._documents[0] += 1
        self._bytes[0] += num_bytes
        result = self._transform.apply(text)
        if result == "":
            result = Dropped("empty")
        if isinstance(result, Dropped):
            self._dropped[result.reason] += 1
            return result, 0
        if result is not text:
            num_bytes = len(result.encode())
        self._documents[1] += 1
        self._bytes[1] += num_bytes
        return result, num_bytes

    def count(self) -> TransformCount:
        return TransformCount(
            kind=self._kind,
            num_documents_in=self._documents[0],
            num_documents_out=self._documents[1],
            num_text_bytes_in=self._bytes[0],
            num_text_bytes_out=self._bytes[1],
            dropped=dict(sorted(self._dropped.items())),
        )


# The transforms that need nothing but their config, by kind.
_MAKERS: dict[str, Callable[[Any], Transform]] = {
    "normalize_unicode": NormalizeUnicode,
    "filter_length": FilterLength,
    "filter_lines": FilterLines,
    "filter_repetition": FilterRepetition,
    "filter_quality": FilterQuality,
    "remove_stop_words": RemoveStopWords,
}


def _build(config: TransformConfig, keeps: Keeps | None) -> Transform:
    if config.kind == "deduplicate":
        assert keeps is not None, "a chain with `deduplicate` needs someone who knows the whole corpus"
        return Deduplicate(keeps)
    return _MAKERS[config.kind](config)
