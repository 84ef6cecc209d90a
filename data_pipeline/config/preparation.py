"""How text becomes a prepared dataset: everything, apart from the tokenizer and the text, that decides the result."""

from typing import Annotated, Literal

from pydantic import Field

from data_pipeline.config.augmentation import AugmentationConfig
from data_pipeline.config.base import StrictModel
from data_pipeline.config.transforms import Transforms


class ReadingConfig(StrictModel):
    """How documents are found in files."""

    globs: list[str] = Field(default_factory=lambda: ["**/*"])
    """Patterns of the files taken from a folder, relative to it; hidden files and folders never are."""

    excludes: list[str] = Field(default_factory=list)
    """Patterns of files left out of a folder, relative to it."""

    text_field: str = "text"
    """Field of a JSON object, or column of a table, that holds the text."""

    text_unit: Literal["file", "line"] = "file"
    """What one document of a text file is: the whole file, or each of its lines."""

    invalid_utf8: Literal["error", "skip"] = "error"
    """What happens at a document that is not UTF-8: an error that names the place, or it is left out and counted."""


class PreparationConfig(StrictModel):
    """Everything that decides the shards, given the tokenizer and the text."""

    reading: ReadingConfig = ReadingConfig()
    """How documents are found in files."""

    transforms: Transforms = Field(default_factory=list)
    """What is done to each document's text before it is tokenized, in order."""

    augmentation: AugmentationConfig | None = None
    """How training documents are varied when they are tokenized; not at all by default."""

    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the documents held out, picked by the hash of their text: stable when files are added."""

    adds_bos: bool = False
    """Whether each document starts with the tokenizer's beginning-of-sequence id."""

    adds_eos: bool = True
    """Whether each document ends with the tokenizer's end-of-sequence id."""

    tokens_per_record_batch: Annotated[int, Field(ge=1)] = 4_000_000
    """Tokens after which a record batch is closed, at a document's end."""

    shard_bytes: Annotated[int, Field(ge=1)] = 256 * 1024 * 1024
    """Bytes of token ids after which a task starts another shard, at a document's end."""

    task_bytes: Annotated[int, Field(ge=1)] | None = None
    """Bytes of input of one task; by default a 64th of all, within 4 and 512 MiB. The worker count never matters."""
