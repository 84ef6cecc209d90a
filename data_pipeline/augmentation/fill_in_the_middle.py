"""Fill-in-the-middle (arXiv 2207.14255): a document in three parts, the middle written last.

PSM: prefix piece, prefix, suffix piece, suffix, middle piece, middle.
SPM: prefix piece, suffix piece, suffix, middle piece, prefix, middle (the paper's second variant, appendix D).
The cuts are drawn among characters, so that a model also learns to go on inside a word.
"""

from dataclasses import dataclass

from data_pipeline.augmentation.keyed_random import KeyedRandom
from data_pipeline.config import FillInTheMiddleConfig
from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sentinels:
    """Ids of the three control symbols."""

    prefix: int
    middle: int
    suffix: int

    @staticmethod
    def of(tokenizer: Tokenizer, config: FillInTheMiddleConfig) -> "Sentinels":
        """Look the pieces up. Raises DataError where the tokenizer lacks one, or text could spell it."""
        names = [config.prefix_piece, config.middle_piece, config.suffix_piece]
        if len(set(names)) < len(names):
            raise DataError(f"fill-in-the-middle needs three different pieces, got {', '.join(names)}")
        ids = [tokenizer.control_id(name) for name in names]
        missing = [name for name, number in zip(names, ids, strict=True) if number is None]
        if missing:
            reserve = " ".join(f"--reserve '{name}'" for name in names)
            raise DataError(
                f"{tokenizer.path}: fill-in-the-middle needs {', '.join(missing)} among the tokenizer's control "
                f"symbols (an ordinary piece could be spelled by text): llama-dist tokenizer train ... {reserve}"
            )
        prefix, middle, suffix = (number for number in ids if number is not None)
        return Sentinels(prefix, middle, suffix)


Part = int | str
"""The id of a control symbol, or text to encode."""


def rearrange(text: str, sentinels: Sentinels, spm_share: float, random: KeyedRandom) -> list[Part]:
    """Cut `text` in three at two characters, all pairs equally likely, and write it in PSM or SPM order."""
    is_spm = random.share() < spm_share
    first, second = sorted((random.below(len(text) + 1), random.below(len(text) + 1)))
    prefix, middle, suffix = text[:first], text[first:second], text[second:]
    if is_spm:
        return [sentinels.prefix, sentinels.suffix, suffix, sentinels.middle, prefix, middle]
    return [sentinels.prefix, prefix, sentinels.suffix, suffix, sentinels.middle, middle]
