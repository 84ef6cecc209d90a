"""A real DataLoader over our stream gives the stream's samples, in one order at every world size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_pipeline.config import DataConfig, SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.interop.elastic_sampler import ElasticBatchSampler
from data_pipeline.interop.torch_dataset import StreamDataset
from data_pipeline.stream import open_stream

LENGTH = 32


def config_of(directory, **changes) -> DataConfig:
    return DataConfig(
        sources=[SourceConfig(path=str(directory))], sequence_length_tokens=LENGTH, shuffle_seed=3, **changes
    )


def test_items_are_the_samples_of_the_stream(built_dataset):
    dataset, stream = StreamDataset(config_of(built_dataset)), open_stream(config_of(built_dataset))
    assert len(dataset) == stream.num_sequences
    whole = stream.read(np.arange(len(dataset)))
    for number in (0, 7, len(dataset) - 1):
        item = dataset[number]
        assert item["tokens"].dtype == torch.int64
        assert item["tokens"].tolist() == whole.tokens[number].tolist()
        assert item["labels"].tolist() == whole.labels[number].tolist()
        assert int(item["sample_id"]) == int(whole.sample_ids[number])
    with pytest.raises(IndexError, match=f"there are {len(dataset)}"):
        dataset[len(dataset)]


def test_samples_keep_their_values_when_more_are_read(built_dataset):
    dataset = StreamDataset(config_of(built_dataset))
    first = dataset[0]
    kept = first["tokens"].tolist()
    dataset.__getitems__(list(range(50)))
    assert first["tokens"].tolist() == kept


def test_forked_workers_read_a_store_by_streams_of_their_own(built_dataset, tmp_path):
    cache = {"directory": str(tmp_path / "cache"), "max_bytes": 10**7}
    local = StreamDataset(config_of(built_dataset, shuffle_window_bytes=20_000))
    config = DataConfig.model_validate(
        local._config.model_dump() | {"sources": [{"path": f"file://{built_dataset}"}], "cache": cache}
    )
    remote = StreamDataset(config)
    parents = remote.stream
    assert parents is remote.stream
    loader = DataLoader(_StreamOf(remote, parents), num_workers=1, multiprocessing_context="fork", timeout=60)
    for number, (tokens, is_own) in enumerate(loader):
        assert bool(is_own)
        assert tokens[0].tolist() == local[number]["tokens"].tolist()


class _StreamOf(torch.utils.data.Dataset):
    """Items with word of whether a worker has a stream of its own."""

    def __init__(self, dataset, parents):
        self._dataset, self._parents = dataset, parents

    def __len__(self):
        return 5

    def __getitem__(self, number):
        return self._dataset[number]["tokens"], self._dataset.stream is not self._parents


def test_positions_come_with_isolated_documents(built_dataset):
    item = StreamDataset(config_of(built_dataset, isolate_documents=True))[0]
    assert item["positions"].shape == (LENGTH,)
    assert int(item["positions"][0]) == 0


def test_a_dataset_longer_than_an_epoch_starts_the_next_one(built_dataset):
    size = open_stream(config_of(built_dataset)).num_sequences
    dataset = StreamDataset(config_of(built_dataset), num_samples=2 * size)
    ids = [
        sorted(int(one["sample_id"]) for one in dataset.__getitems__(list(range(e * size, (e + 1) * size))))
        for e in (0, 1)
    ]
    assert ids[0] == ids[1]
    with pytest.raises(DataError, match="the held-out text has"):
        StreamDataset(config_of(built_dataset), split="validation", num_samples=10**6)


def global_batches(directory, *, world_size, micro_batch, num_workers, steps, state=None):
    """Sample ids of each step, over all ranks in the order of the step, with the tokens read."""
    ranks = []
    for rank in range(world_size):
        dataset = StreamDataset(config_of(directory), num_samples=steps * 12)
        sampler = ElasticBatchSampler(
            rank=rank,
            world_size=world_size,
            global_batch_sequences=12,
            micro_batch_sequences=micro_batch,
            num_samples=len(dataset),
        )
        if state is not None:
            sampler.load_state_dict(state)
        ranks.append(list(DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)))
    micro_steps = 12 // (world_size * micro_batch)
    flat = [ranks[r][m] for m in range(len(ranks[0])) for r in range(world_size)]
    per_step = micro_steps * world_size
    return [
        torch.cat([batch["tokens"] for batch in flat[start : start + per_step]]).tolist()
        for start in range(0, len(flat), per_step)
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_the_same_global_batches_at_every_world_size(built_dataset, num_workers):
    stream = open_stream(config_of(built_dataset))
    expected = [np.array(stream.read(np.arange(12 * k, 12 * (k + 1))).tokens).tolist() for k in range(3)]
    worlds = [(1, 4), (2, 3), (3, 2), (4, 1)] if num_workers == 0 else [(2, 3)]
    for world_size, micro_batch in worlds:
        batches = global_batches(
            built_dataset, world_size=world_size, micro_batch=micro_batch, num_workers=num_workers, steps=3
        )
        assert batches == expected, (world_size, micro_batch)


def test_a_position_saved_by_one_world_continues_in_another(built_dataset):
    whole = global_batches(built_dataset, world_size=1, micro_batch=12, num_workers=0, steps=4)
    sampler = ElasticBatchSampler(rank=1, world_size=2, global_batch_sequences=12, micro_batch_sequences=3)
    batches = iter(sampler)
    # A loader that fetches ahead draws more than training takes; only steps that are done count.
    for _ in range(7):
        next(batches)
    sampler.step_done()
    assert sampler.state_dict()["consumed_samples"] == 12
    rest = global_batches(
        built_dataset, world_size=3, micro_batch=2, num_workers=0, steps=4, state=sampler.state_dict()
    )
    assert rest == whole[1:]


@given(world_size=st.integers(1, 6), micro_batch=st.integers(1, 5), steps=st.integers(1, 5), consumed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_ranks_tile_every_global_batch(world_size, micro_batch, steps, consumed):
    size = world_size * micro_batch * 2
    end = consumed + steps * size
    samplers = [
        ElasticBatchSampler(
            rank=rank,
            world_size=world_size,
            global_batch_sequences=size,
            micro_batch_sequences=micro_batch,
            consumed_samples=consumed,
            num_samples=end + size - 1,
        )
        for rank in range(world_size)
    ]
    drawn = [list(sampler) for sampler in samplers]
    assert [len(one) for one in drawn] == [len(samplers[0])] * world_size
    in_order = [number for m in range(len(drawn[0])) for one in drawn for number in one[m]]
    assert in_order == list(range(consumed, end))


def test_sizes_that_do_not_fit_and_foreign_states_are_refused():
    with pytest.raises(
        DataError, match=r"global_batch_sequences 10 is not a multiple of 12 \(micro_batch_sequences 4 x"
    ):
        ElasticBatchSampler(rank=0, world_size=3, global_batch_sequences=10, micro_batch_sequences=4)
    with pytest.raises(DataError, match="rank 3 of 3"):
        ElasticBatchSampler(rank=3, world_size=3, global_batch_sequences=12)
    sampler = ElasticBatchSampler(rank=0, world_size=1, global_batch_sequences=4)
    with pytest.raises(DataError, match="global batch is part of the order"):
        sampler.load_state_dict({"version": 1, "consumed_samples": 8, "global_batch_sequences": 8})
    with pytest.raises(TypeError):
        len(sampler)
