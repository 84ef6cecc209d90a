"""What a training stream reads: sources, their weights over time, how documents become sequences, the order's seed."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from data_pipeline.config.base import StrictModel

SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]


class SourceConfig(StrictModel):
    """One prepared dataset: what `llama-dist data prepare` wrote."""

    path: Annotated[str, Field(min_length=1)]
    """Directory of the prepared dataset, which holds `manifest.json`, or its URL (`s3://`, `gs://`, `https://`, ...).
    Relative paths start at the working directory."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Share of this source before the first stage, in `data.weight_unit`. 0 leaves it to a later stage."""

    name: SourceName | None = None
    """Name by which stages refer to the source. By default the last part of its path."""

    @property
    def is_remote(self) -> bool:
        """Whether the path is a URL."""
        return "://" in self.path

    @property
    def resolved_name(self) -> str:
        """The name, or the last part of the path."""
        return self.name or self.path.rstrip("/").rpartition("/")[2]


class StageConfig(StrictModel):
    """Weights that hold from a number of tokens on, until the next stage."""

    starts_at_tokens: Count
    """Tokens of the run, over all ranks, before the stage. Rounded up to whole sequences."""

    weights: Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]
    """Weight of each source by its name, in `data.weight_unit`. A source that is not named is not read."""


class SampleRange(StrictModel):
    """Samples `first` to `last`, both included, as `llama-dist data show` numbers them."""

    first: NonNegative
    """First sample, by its number."""

    last: Annotated[int, Field(ge=0, lt=2**62)]
    """Last sample, by its number."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.last < self.first:
            raise PydanticCustomError("range", f"first is {self.first}, last is {self.last}: last must not be below it")
        return self


class CacheConfig(StrictModel):
    """Where a node keeps what it fetched from remote sources. All ranks of the node share it."""

    directory: str
    """Directory on a disk of the node. Only what was fetched into it is ever removed from it."""

    max_bytes: Count
    """Most bytes kept. Must hold the shuffle window; a start with less is refused with the number needed."""


class DataConfig(StrictModel):
    """The data that a run reads, and in which order."""

    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    """Prepared datasets; all must have been written with the same tokenizer. New ones go to the end of the list."""

    stages: list[StageConfig] = Field(default_factory=list)
    """Later weights, in rising order of `starts_at_tokens`. Those ahead of a run may be changed at a resume."""

    weight_unit: Literal["share", "epochs"] = "share"
    """What a weight counts: a share of the samples, or epochs: then a source's share is its weight times its size."""

    sequence_length_tokens: Annotated[int, Field(ge=8)] = 2048
    """Tokens of one training sequence, the T of [B, T]."""

    packing: Literal["concat", "best_fit"] = "concat"
    """How documents fill sequences: end to end and cut (`concat`), or as few cuts as possible (`best_fit`, which needs
    the index that `llama-dist data pack` writes)."""

    isolate_documents: bool = False
    """Whether attention stays inside a document, and positions start at 0 with each."""

    mask_boundary_labels: bool = False
    """Whether the loss leaves out the last token of a document, whose label is the next one's first.
    `best_fit` always does, since its neighbours are strangers."""

    shuffle_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the sample order; the order is a pure function of it, the sources and the sample number."""

    shuffle_window_bytes: Count | None = None
    """Bytes of shards among which sequences are shuffled at a time; by default a whole epoch.
    Remote sources need it."""

    skip_samples: list[SampleRange] = Field(default_factory=list)
    """Samples that are passed over, for example around a spike of the loss. Those ahead of a run may be changed."""

    cache: CacheConfig | None = None
    """Node-local cache of remote sources; needed if a source's path is a URL."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [source.resolved_name for source in self.sources]
        if (self.stages or len(self.sources) > 1) and len(set(names)) < len(names):
            raise PydanticCustomError("names", f"two sources have one name ({', '.join(names)}): set sources.N.name")
        if not any(source.weight for source in self.sources):
            raise PydanticCustomError("weights", "every source has weight 0: give one at least a weight")
        starts = [stage.starts_at_tokens for stage in self.stages]
        if any(later <= earlier for earlier, later in pairwise(starts)):
            raise PydanticCustomError("stages", f"stages must start at rising tokens, seen {starts}")
        for number, stage in enumerate(self.stages):
            unknown = sorted(set(stage.weights) - set(names))
            if unknown:
                raise PydanticCustomError(
                    "stages", f"stages.{number} names {', '.join(unknown)}; the sources are {', '.join(names)}"
                )
            if not any(stage.weights.values()):
                raise PydanticCustomError("stages", f"stages.{number} gives every source weight 0")
        return self


class BatchConfig(StrictModel):
    """How many sequences make one optimizer step. Accumulation follows: global / (micro x data-parallel size)."""

    global_batch_sequences: Count
    """Sequences of one optimizer step, over all ranks. Part of the order: a resume keeps it."""

    micro_batch_sequences: Count = 1
    """Sequences of one forward pass on one data-parallel rank."""
