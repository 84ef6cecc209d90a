"""Configs and source shapes of the order's tests: no dataset is opened, the order only needs sizes."""

import numpy as np

from data_pipeline.config import DataConfig, SampleRange, SourceConfig, StageConfig
from data_pipeline.shuffle import SourceShape
from data_pipeline.training_order import TrainingOrder

LENGTH = 8


def shape(*group_sizes: int, name: str = "a", group_bytes=None) -> SourceShape:
    """A source of groups of these sizes; a sequence takes 10 bytes unless `group_bytes` says otherwise."""
    sizes = np.array(group_sizes, dtype=np.int64)
    return SourceShape(name, sizes, sizes * 10 if group_bytes is None else np.array(group_bytes, dtype=np.int64))


def config(*weights: float, stages=(), skips=(), seed=0, **changes) -> DataConfig:
    """Sources s0, s1, ... of these weights. A stage is (first sample, weights), a skip (first, last)."""
    return DataConfig(
        sources=[SourceConfig(path=f"data/s{number}", weight=weight) for number, weight in enumerate(weights)],
        stages=[
            StageConfig(
                starts_at_tokens=first * LENGTH, weights={f"s{number}": weight for number, weight in enumerate(later)}
            )
            for first, later in stages
        ],
        skip_samples=[SampleRange(first=first, last=last) for first, last in skips],
        sequence_length_tokens=LENGTH,
        shuffle_seed=seed,
        **changes,
    )


def order(sizes, *weights: float, **changes) -> TrainingOrder:
    """An order over sources of these sizes, each one group."""
    shapes = [shape(size, name=f"fingerprint {number}") for number, size in enumerate(sizes)]
    return TrainingOrder(config(*weights, **changes), shapes)


def rows(located) -> list[tuple[int, int, int]]:
    """Locations as (source, epoch, sequence)."""
    return list(zip(located.sources.tolist(), located.epochs.tolist(), located.sequences.tolist(), strict=True))
