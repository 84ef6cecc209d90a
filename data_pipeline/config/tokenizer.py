"""How a tokenizer is trained: everything, apart from the text, that decides its file."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from data_pipeline.config.augmentation import PieceName
from data_pipeline.config.base import StrictModel
from data_pipeline.config.preparation import ReadingConfig

_TAKEN = re.compile(r"<unk>|</?s>|<0x[0-9A-F]{2}>")


def _can_be_reserved(names: list[str]) -> list[str]:
    for number, name in enumerate(names):
        if _TAKEN.fullmatch(name) or name in names[:number]:
            raise PydanticCustomError("reserved", f"`{name}` is taken already: reserve another name")
    return names


class TokenizerTrainingConfig(StrictModel):
    """SentencePiece BPE with byte fallback, without any change to the text."""

    vocabulary_size: Annotated[int, Field(ge=260)]
    """Ids of the tokenizer: 3 special ones, 256 bytes, the characters, and the merges."""

    reading: ReadingConfig = ReadingConfig()
    """How documents are found in files."""

    sample_bytes: Annotated[int, Field(ge=65_536)] = 64 * 1024 * 1024
    """Most UTF-8 bytes of text that the training looks at, picked by hash; it takes some 20 times that in memory."""

    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.9995
    """Share of the sample's characters that get an id of their own; the rest are spelled as bytes."""

    reserved: Annotated[list[PieceName], AfterValidator(_can_be_reserved)] = Field(default_factory=list)
    """Names of control symbols, as `<fim_prefix>`, each with an id after the first three. No text is encoded to them,
    not even their own spelling, and decoding leaves them out."""
