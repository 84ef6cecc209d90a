"""Stops, resumes and changes of the world size: the global batches are those of the run that never stopped."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import DataConfig, SourceConfig, StageConfig
from data_pipeline.packing.pack_dataset import pack_split
from data_pipeline.stream import open_stream
from data_pipeline.stream_state import StreamState

LENGTH = 64
GLOBAL_BATCH = 12
# (data-parallel size, micro-batch) of each leg; all divide the global batch.
WORLDS = [(size, micro) for size in (1, 2, 3, 4) for micro in (1, 2, 3, 6) if GLOBAL_BATCH % (size * micro) == 0]


@pytest.fixture(scope="module")
def configs(built_dataset, other_dataset, tmp_path_factory) -> dict[str, DataConfig]:
    """One source and a staged mixture, end to end and packed."""
    import shutil

    folder = tmp_path_factory.mktemp("resize")
    first, second = (
        Path(shutil.copytree(path, folder / path.name, dirs_exist_ok=True)) for path in (built_dataset, other_dataset)
    )
    for directory in (first, second):
        pack_split(directory, "train", LENGTH)
    one = [SourceConfig(path=str(second), name="small")]
    mixture = [SourceConfig(path=str(first), weight=0.3, name="large"), *one]
    stages = [StageConfig(starts_at_tokens=200 * LENGTH, weights={"large": 3.0, "small": 1.0})]
    return {
        f"{packing} {kind}": DataConfig(
            sources=sources,
            stages=stages if kind == "mixture" else [],
            sequence_length_tokens=LENGTH,
            packing=packing,
            isolate_documents=packing == "best_fit",
            shuffle_seed=5,
        )
        for packing in ("concat", "best_fit")
        for kind, sources in (("one", one), ("mixture", mixture))
    }


CASES = ["concat one", "concat mixture", "best_fit one", "best_fit mixture"]


def global_batch(config: DataConfig, consumed: int, dp_size: int, micro_batch: int, streams=None) -> dict:
    """One step of a world: every rank has a stream of its own, and their rows are put together in order."""
    streams = streams or [open_stream(config) for _ in range(dp_size)]
    num_micro_batches = GLOBAL_BATCH // (dp_size * micro_batch)
    parts = [
        stream.micro_batches(
            consumed,
            dp_rank=rank,
            dp_size=dp_size,
            micro_batch_sequences=micro_batch,
            num_micro_batches=num_micro_batches,
        )
        for rank, stream in enumerate(streams)
    ]
    ordered = [part for together in zip(*parts, strict=True) for part in together]
    names = ("tokens", "labels", "sample_ids", "epochs", *(["positions"] if config.isolate_documents else []))
    return {name: np.concatenate([getattr(part, name) for part in ordered]) for name in names}


def assert_unbroken(config: DataConfig, first: int, batches: list[dict]) -> None:
    whole = open_stream(config).read(np.arange(first, first + GLOBAL_BATCH * len(batches)))
    for name in batches[0]:
        together = np.concatenate([batch[name] for batch in batches])
        assert np.array_equal(together, getattr(whole, name)), name


def run_schedule(config: DataConfig, first: int, legs: list[tuple[tuple[int, int], int]]) -> list[dict]:
    """Train leg by leg; between two, only the JSON of the state survives."""
    saved, batches = open_stream(config).state(first).to_json(), []
    for (dp_size, micro_batch), num_steps in legs:
        state = StreamState.from_json(saved)
        streams = [open_stream(config) for _ in range(dp_size)]
        for stream in streams:
            stream.check_state(state)
        consumed = state.consumed_samples
        for _ in range(num_steps):
            batches.append(global_batch(config, consumed, dp_size, micro_batch, streams))
            consumed += GLOBAL_BATCH
        # Every rank writes the same state.
        (saved,) = {stream.state(consumed).to_json() for stream in streams}
    return batches


@pytest.mark.parametrize("case", CASES)
def test_world_sizes_that_change_every_few_steps_give_the_unbroken_batches(configs, case):
    config = configs[case]
    epoch = sum(source.num_sequences for source in open_stream(config).sources[-1:])
    steps_of_epoch = epoch // GLOBAL_BATCH
    lengths = itertools.cycle([1, 3, 2])
    legs = []
    for world in itertools.cycle([(1, 3), (2, 6), (3, 2), (4, 1), (3, 4), (1, 12), (4, 3), (2, 1)]):
        legs.append((world, next(lengths)))
        # The mixture draws from the small source less and less often: a longer way to its second epoch.
        if sum(count for _, count in legs) > (1.3 if "one" in case else 4) * steps_of_epoch:
            break
    batches = run_schedule(config, 0, legs)
    assert_unbroken(config, 0, batches)
    epochs = np.concatenate([batch["epochs"] for batch in batches])
    assert epochs.max() >= 1


@pytest.mark.parametrize("case", ["concat one", "best_fit one"])
def test_no_sample_is_lost_or_repeated_across_an_epoch_boundary(configs, case):
    """By ids alone: two whole epochs through changing worlds hold each sequence exactly twice."""
    config = configs[case]
    num_sequences = open_stream(config).num_sequences
    num_steps = -(-2 * num_sequences // GLOBAL_BATCH)
    legs = [(world, 5) for world in itertools.islice(itertools.cycle(WORLDS), -(-num_steps // 5))]
    batches = run_schedule(config, 0, legs)
    ids = np.concatenate([batch["sample_ids"] for batch in batches])[: 2 * num_sequences]
    epochs = np.concatenate([batch["epochs"] for batch in batches])[: 2 * num_sequences]
    for epoch in (0, 1):
        assert np.array_equal(np.sort(ids[epochs == epoch]), np.arange(num_sequences))


@given(
    case=st.sampled_from(CASES),
    first=st.one_of(st.integers(0, 400), st.integers(0, 10**6)),
    legs=st.lists(st.tuples(st.sampled_from(WORLDS), st.integers(1, 4)), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_any_schedule_of_stops_and_resizes_gives_the_unbroken_batches(configs, case, first, legs):
    assert_unbroken(configs[case], first, run_schedule(configs[case], first, legs))
