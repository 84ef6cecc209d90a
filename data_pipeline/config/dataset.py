"""What a training stream reads: sources, their weights, the seed of the order."""

from typing import Annotated

from pydantic import Field

from data_pipeline.config.base import StrictModel


class SourceConfig(StrictModel):
    """One prepared dataset: a directory that `llama-dist data prepare` wrote."""

    path: str
    """Directory of the prepared dataset, which holds `manifest.json`. Relative paths start at the working directory."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the samples drawn from this source, relative to the other weights. No unit."""


class DataConfig(StrictModel):
    """The data that a run reads, and in which order."""

    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    """Prepared datasets; all must have been written with the same tokenizer."""

    sequence_length_tokens: Annotated[int, Field(ge=8)] = 2048
    """Tokens of one training sequence, the T of [B, T]."""

    shuffle_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the sample order; the order is a pure function of it, the sources and the sample number."""
