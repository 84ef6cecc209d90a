"""What is done to a document's text before it is tokenized: one model per kind of transform, told apart by `kind`.

What each does is in `data_pipeline/transforms/`; the order of the list is the order of the work.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from data_pipeline.config.augmentation import AugmentationConfig
from data_pipeline.config.base import StrictModel

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
# A field of the stop words is called `list`, which hides the type of that name inside the model.
WordList = list[str]


class NormalizeUnicodeConfig(StrictModel):
    """Writes equal characters in one way."""

    kind: Literal["normalize_unicode"]
    """Picks this transform."""

    form: Literal["NFC", "NFD", "NFKC", "NFKD"] = "NFC"
    """Unicode normal form. The K forms also replace look-alikes (full-width letters, ligatures): text is lost."""


class FilterLengthConfig(StrictModel):
    """Drops documents that are too short or too long."""

    kind: Literal["filter_length"]
    """Picks this transform."""

    min_characters: Count = 1
    """Fewest characters (code points) of a document."""

    max_characters: Count | None = None
    """Most characters (code points) of a document."""


class FilterLinesConfig(StrictModel):
    """Leaves out lines; those that stay keep their order and their line ends."""

    kind: Literal["filter_lines"]
    """Picks this transform."""

    min_characters: Count = 1
    """Fewest characters of a line of a document, spaces at its ends not counted. Blank lines are not judged by it."""

    max_characters: Count | None = None
    """Most characters of a line of a document, spaces at its ends not counted."""

    needs_letter: bool = False
    """Whether lines without a letter of any script are left out, as `-----` or `17 | 42`."""

    keeps_blank_lines: bool = True
    """Whether blank lines stay, which divide paragraphs."""


class NgramLimit(StrictModel):
    """How much of a document runs of words of one length may fill."""

    num_words: Annotated[int, Field(ge=1, le=100)]
    """Words of a run. Where text is written without spaces, twice as many characters stand for them."""

    max_share: Share
    """Most of the characters of a document's words, as a share."""


class FilterRepetitionConfig(StrictModel):
    """Drops documents that repeat themselves. Defaults: Gopher, arXiv 2112.11446, table A1. For prose, not for code."""

    kind: Literal["filter_repetition"]
    """Picks this transform."""

    max_duplicate_line_share: Share = 0.30
    """Most lines that occurred before in the document, as a share of its lines; blank ones are not counted."""

    max_duplicate_line_character_share: Share = 0.20
    """Most characters in such lines, as a share of those in lines."""

    max_duplicate_paragraph_share: Share = 0.30
    """Most paragraphs (divided by blank lines) that occurred before in the document, as a share of its paragraphs."""

    max_duplicate_paragraph_character_share: Share = 0.20
    """Most characters in such paragraphs, as a share of those in paragraphs."""

    top_ngrams: list[NgramLimit] = Field(
        default_factory=lambda: [
            NgramLimit(num_words=num_words, max_share=share) for num_words, share in ((2, 0.20), (3, 0.18), (4, 0.16))
        ]
    )
    """Most that the most frequent run of so many words may fill, if it occurs more than once."""

    duplicate_ngrams: list[NgramLimit] = Field(
        default_factory=lambda: [
            NgramLimit(num_words=num_words, max_share=share)
            for num_words, share in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
        ]
    )
    """Most that all runs of so many words that occurred before may fill together, overlaps counted once."""

    min_ngram_words: Annotated[int, Field(ge=0)] = 50
    """Words below which a document's runs are not looked at: in a short text any repetition is a large share."""


class FilterQualityConfig(StrictModel):
    """Drops documents by what their characters are, in any language. Shares are of the characters that are no space."""

    kind: Literal["filter_quality"]
    """Picks this transform."""

    min_letter_share: Share = 0.5
    """Least letters of any script, with their marks."""

    max_digit_share: Share = 0.2
    """Most digits and other numbers."""

    max_punctuation_share: Share = 0.3
    """Most punctuation of any script."""

    max_symbol_share: Share = 0.1
    """Most symbols: of mathematics and money, arrows, emoji."""

    max_whitespace_share: Share = 0.4
    """Most spaces, tabs and line ends, as a share of all characters."""

    max_control_share: Share = 0.01
    """Most control characters (NUL, escape, but no white space) and private ones."""

    min_mean_word_characters: Annotated[float, Field(ge=0)] = 3.0
    """Shortest mean word in characters (Gopher, arXiv 2112.11446, A1.1). Not asked of text without spaces."""

    max_mean_word_characters: Annotated[float, Field(gt=0)] = 10.0
    """Longest mean word in characters (Gopher, as above). Not asked of text without spaces."""

    max_hashes_and_ellipses_per_word: Annotated[float, Field(ge=0)] = 0.1
    """Most `#` and ellipses, a word (Gopher, as above); each character of a script without spaces counts as a word."""


class DeduplicateConfig(StrictModel):
    """Keeps the first of all documents of the corpus whose text is equal at this place. At most once in the list."""

    kind: Literal["deduplicate"]
    """Picks this transform."""


class RemoveStopWordsConfig(StrictModel):
    """Takes words out of the text. A model trained on such text cannot write: never use it for generation."""

    kind: Literal["remove_stop_words"]
    """Picks this transform."""

    list: Annotated[str, Field(min_length=1)] | None = None
    """`english`, `chinese`, or the path of a UTF-8 file with a word a line. Relative paths start at the working
    directory."""

    words: Annotated[WordList, Field(min_length=1)] | None = None
    """The words themselves; read from `list` when the preparation starts, and recorded."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.list is None and self.words is None:
            raise PydanticCustomError("words", "remove_stop_words has no words: set `list` or `words`")
        return self


TransformConfig = Annotated[
    NormalizeUnicodeConfig
    | FilterLengthConfig
    | FilterLinesConfig
    | FilterRepetitionConfig
    | FilterQualityConfig
    | DeduplicateConfig
    | RemoveStopWordsConfig,
    Field(discriminator="kind"),
]


def _deduplicates_at_most_once(transforms: list[TransformConfig]) -> list[TransformConfig]:
    places = [number for number, one in enumerate(transforms) if one.kind == "deduplicate"]
    if len(places) > 1:
        raise PydanticCustomError("deduplicate", f"deduplicate stands at {places}: keep one, the corpus is read for it")
    return transforms


Transforms = Annotated[list[TransformConfig], AfterValidator(_deduplicates_at_most_once)]


class TransformsFile(StrictModel):
    """The file of `llama-dist data prepare --transforms`."""

    transforms: Transforms = Field(default_factory=list)
    """What is done to each document's text, in order."""

    augmentation: AugmentationConfig | None = None
    """How training documents are varied; not at all by default."""
