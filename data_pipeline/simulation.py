"""`llama-dist data simulate`: what a run will see, by stage and source. Counts in closed form and reads no sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_pipeline.config import DataConfig
from data_pipeline.source import open_source
from data_pipeline.stages import Stage
from data_pipeline.stores.opening import RemoteSources
from data_pipeline.training_order import SourceShape, TrainingOrder

Int64 = npt.NDArray[np.int64]

# Up to about four passes repeated text is worth almost what new text is (arXiv 2305.16264).
_MOST_WORTHWHILE_EPOCHS = 4.0


@dataclass(frozen=True)
class SourceCount:
    """What one source gives in a stage, or in the whole run."""

    name: str
    samples: int
    tokens: int
    share: float
    """Part of the samples of the stage, or of the run."""

    epochs: float
    """Passes over the source from the start of the run to the end of the stage; skipped samples are part of them."""


@dataclass(frozen=True)
class StageCount:
    """What one stage gives."""

    stage: int
    """0 for `sources.N.weight`, 1 for the first of `data.stages`."""

    first_step: int
    """Optimizer step, counted from 1, in which its first sample is read."""

    samples: int
    tokens: int
    sources: list[SourceCount]
    """Those that the stage draws from."""


@dataclass(frozen=True)
class Simulation:
    """What a run will see."""

    steps: int
    samples: int
    tokens: int
    skipped_samples: int
    stages: list[StageCount]
    sources: list[SourceCount]
    """Totals of the run, of every source."""

    warnings: list[str]


def read_shapes(config: DataConfig) -> list[SourceShape]:
    """Open the training splits of `config` for their sizes. Raises DataError or StorageError like a run would."""
    remote = RemoteSources(config) if any(source.is_remote for source in config.sources) else None
    opened = [open_source(config, number, "train", remote).sequences for number in range(len(config.sources))]
    return [SourceShape(one.fingerprint, one.group_sizes, one.group_bytes) for one in opened]


def simulate(config: DataConfig, shapes: Sequence[SourceShape], *, num_steps: int, batch_sequences: int) -> Simulation:
    """Count what `num_steps` steps of `batch_sequences` samples take. Raises DataError like a run would."""
    order = TrainingOrder(config, shapes)
    num_samples = num_steps * batch_sequences
    end = order.skips.end_of(num_samples)
    begun = [stage for stage in order.stages if stage.first_sample < end]
    bounds = [*(stage.first_sample for stage in begun), end]
    stages = []
    for stage, (first, last) in zip(begun, pairwise(bounds), strict=True):
        taken, epochs = _taken(order, first, last), _epochs(order, shapes, last)
        position = int(order.skips.positions(np.array([first], dtype=np.int64))[0])
        counts = _source_counts(config, taken, epochs, stage.mixture.drawn_sources)
        samples = int(taken.sum())
        tokens = samples * config.sequence_length_tokens
        stages.append(StageCount(stage.number, position // batch_sequences + 1, samples, tokens, counts))
    totals = _source_counts(config, _taken(order, 0, end), _epochs(order, shapes, end), range(len(shapes)))
    return Simulation(
        steps=num_steps,
        samples=num_samples,
        tokens=num_samples * config.sequence_length_tokens,
        skipped_samples=end - num_samples,
        stages=stages,
        sources=totals,
        warnings=_warnings(totals, [stage for stage in order.stages if stage.first_sample >= end], num_steps),
    )


def _taken(order: TrainingOrder, first: int, end: int) -> Int64:
    """Count the samples of each source from sample `first` to `end` - 1 that are not skipped: int64 [sources]."""
    drawn = order.line.drawn_before(end) - order.line.drawn_before(first)
    for skipped_first, skipped_last in order.skips.ranges:
        begin, stop = max(first, skipped_first), min(end, skipped_last + 1)
        if begin < stop:
            drawn -= order.line.drawn_before(stop) - order.line.drawn_before(begin)
    return drawn


def _epochs(order: TrainingOrder, shapes: Sequence[SourceShape], end: int) -> list[float]:
    drawn = order.line.drawn_before(end).tolist()
    return [count / max(1, shape.num_sequences) for count, shape in zip(drawn, shapes, strict=True)]


def _source_counts(
    config: DataConfig, taken: Int64, epochs: Sequence[float], sources: Sequence[int]
) -> list[SourceCount]:
    total = max(1, int(taken.sum()))
    return [
        SourceCount(
            name=config.sources[number].resolved_name,
            samples=int(taken[number]),
            tokens=int(taken[number]) * config.sequence_length_tokens,
            share=round(int(taken[number]) / total, 6),
            epochs=round(epochs[number], 3),
        )
        for number in sources
    ]


def _warnings(totals: Sequence[SourceCount], never: Sequence[Stage], num_steps: int) -> list[str]:
    repeated = [
        f"{one.name} is read {one.epochs:.1f} times: beyond about {_MOST_WORTHWHILE_EPOCHS:.0f} passes repeated text "
        "teaches little: add text, or lower its weight"
        for one in totals
        if one.epochs > _MOST_WORTHWHILE_EPOCHS
    ]
    unused = [f"{one.name} is never read: no stage of these steps draws from it" for one in totals if not one.samples]
    late = [f"data.stages.{stage.number - 1} begins after step {num_steps}, the last one" for stage in never]
    return repeated + unused + late
