"""How a tokenizer is trained: everything, apart from the text, that decides its file."""

from typing import Annotated

from pydantic import Field

from data_pipeline.config.base import StrictModel
from data_pipeline.config.preparation import ReadingConfig


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
