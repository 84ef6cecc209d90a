"""The stream gives the stored tokens, the same ones for every world size, and refuses what does not fit."""

import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import DataConfig, SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.manifest import read_manifest
from data_pipeline.stream import SEQUENCE_ID_BITS, open_stream
from data_pipeline.stream_state import StreamState

LENGTH = 64


def config_of(*directories: Path, length: int = LENGTH, seed: int = 11, weights=None) -> DataConfig:
    weights = weights or [1.0] * len(directories)
    sources = [SourceConfig(path=str(path), weight=weight) for path, weight in zip(directories, weights, strict=True)]
    return DataConfig(sources=sources, sequence_length_tokens=length, shuffle_seed=seed)


def token_line(directory: Path, split: str = "train") -> np.ndarray:
    """All tokens of a split, read by pyarrow alone."""
    shards = read_manifest(directory).shards(split)
    tables = [pa.ipc.open_file(str(directory / shard.file)).read_all() for shard in shards]
    return np.concatenate([table["tokens"].combine_chunks().flatten().to_numpy() for table in tables])


def test_the_dataset_of_these_tests_has_several_shards_and_batches(built_dataset):
    manifest = read_manifest(built_dataset)
    assert len(manifest.train) > 3
    assert max(len(shard.record_batches) for shard in manifest.train) > 3


def test_every_sample_is_its_slice_of_the_token_line(built_dataset):
    stream, line = open_stream(config_of(built_dataset)), token_line(built_dataset)
    batch = stream.read(np.arange(stream.num_sequences))
    starts = (batch.sample_ids & ((1 << SEQUENCE_ID_BITS) - 1)) * LENGTH
    for tokens, labels, start in zip(batch.tokens, batch.labels, starts.tolist(), strict=True):
        assert np.array_equal(tokens, line[start : start + LENGTH])
        assert np.array_equal(labels, line[start + 1 : start + LENGTH + 1])
    assert batch.tokens.dtype == batch.labels.dtype == batch.sample_ids.dtype == np.int64
    assert sorted(starts.tolist()) == [LENGTH * number for number in range((len(line) - 1) // LENGTH)]


def test_a_sequence_longer_than_documents_batches_and_shards_is_whole(built_dataset):
    line = token_line(built_dataset)
    length = len(line) // 2 - 1
    batch = open_stream(config_of(built_dataset, length=length)).read(np.array([0, 1]))
    assert np.array_equal(batch.tokens[np.argsort(batch.sample_ids)].ravel(), line[: 2 * length])


def test_an_epoch_reads_every_sequence_once_and_the_next_one_again(built_dataset):
    stream = open_stream(config_of(built_dataset))
    for epoch in (0, 1):
        numbers = np.arange(epoch * stream.num_sequences, (epoch + 1) * stream.num_sequences)
        batch = stream.read(numbers)
        assert (batch.epochs == epoch).all()
        assert np.array_equal(np.sort(batch.sample_ids), np.arange(stream.num_sequences))


@given(
    dp_size=st.integers(1, 5),
    micro_batch=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    consumed=st.integers(0, 10**12),
)
@settings(max_examples=60, deadline=None)
def test_partitions_tile_the_global_batch(built_dataset, other_dataset, dp_size, micro_batch, accumulation, consumed):
    config = config_of(built_dataset, other_dataset, weights=[0.7, 0.3])
    size = dp_size * micro_batch * accumulation
    whole = open_stream(config).read(np.arange(consumed, consumed + size))
    parts = [
        open_stream(config).micro_batches(
            consumed,
            dp_rank=rank,
            dp_size=dp_size,
            micro_batch_sequences=micro_batch,
            num_micro_batches=accumulation,
        )
        for rank in range(dp_size)
    ]
    # Micro-step by micro-step, rank by rank, row by row: exactly the range of sample numbers.
    ordered = [parts[rank][step] for step in range(accumulation) for rank in range(dp_size)]
    assert np.array_equal(np.concatenate([part.tokens for part in ordered]), whole.tokens)
    assert np.array_equal(np.concatenate([part.sample_ids for part in ordered]), whole.sample_ids)


def test_the_order_is_the_same_at_dp_1_2_3_4(built_dataset):
    steps, global_batch = 3, 36
    orders = []
    for dp_size, micro_batch in itertools.product((1, 2, 3, 4), (1, 3)):
        stream, order = open_stream(config_of(built_dataset)), []
        for step in range(steps):
            parts = [
                stream.micro_batches(
                    step * global_batch,
                    dp_rank=rank,
                    dp_size=dp_size,
                    micro_batch_sequences=micro_batch,
                    num_micro_batches=global_batch // (dp_size * micro_batch),
                )
                for rank in range(dp_size)
            ]
            order += [part.sample_ids.tolist() for together in zip(*parts, strict=True) for part in together]
        orders.append(list(itertools.chain.from_iterable(order)))
    assert len(orders[0]) == steps * global_batch
    assert all(order == orders[0] for order in orders)


def test_two_ranks_never_read_the_same_sample_within_an_epoch(built_dataset):
    stream = open_stream(config_of(built_dataset))
    per_rank = stream.num_sequences // 2
    seen = Counter()
    for rank in range(2):
        batches = stream.micro_batches(0, dp_rank=rank, dp_size=2, micro_batch_sequences=1, num_micro_batches=per_rank)
        seen.update(number for batch in batches for number in batch.sample_ids.tolist())
    assert max(seen.values()) == 1
    assert len(seen) == 2 * per_rank


def test_sources_are_drawn_by_weight_and_named_in_the_sample_ids(built_dataset, other_dataset):
    stream = open_stream(config_of(built_dataset, other_dataset, weights=[0.75, 0.25]))
    sources = stream.read(np.arange(4096)).sample_ids >> SEQUENCE_ID_BITS
    assert np.bincount(sources).tolist() == [3072, 1024]


def test_another_seed_is_another_order(built_dataset):
    first, second = (open_stream(config_of(built_dataset, seed=seed)).read(np.arange(50)) for seed in (0, 1))
    assert not np.array_equal(first.sample_ids, second.sample_ids)


def test_held_out_sequences_come_in_fixed_order_and_end(built_dataset):
    stream = open_stream(config_of(built_dataset, seed=99), split="validation")
    line = token_line(built_dataset, "validation")
    batch = stream.read(np.arange(stream.num_sequences))
    assert stream.num_sequences == (len(line) - 1) // LENGTH > 3
    assert np.array_equal(batch.tokens.ravel(), line[: stream.num_sequences * LENGTH])
    with pytest.raises(DataError, match=f"there are {stream.num_sequences}"):
        stream.read(np.array([stream.num_sequences]))


def test_held_out_documents_are_in_no_training_shard(built_dataset):
    manifest = read_manifest(built_dataset)
    ids = [
        {
            row
            for shard in shards
            for row in pa.ipc.open_file(str(built_dataset / shard.file)).read_all()["doc_id"].to_pylist()
        }
        for shards in (manifest.train, manifest.validation)
    ]
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]


def test_stream_tells_its_vocabulary_and_tokenizer(built_dataset, tokenizer):
    stream = open_stream(config_of(built_dataset))
    assert stream.vocabulary_size == tokenizer.vocabulary_size
    assert stream.tokenizer_path.read_bytes() == tokenizer.path.read_bytes()
    assert stream.tokens_per_epoch == stream.num_sequences * LENGTH


def test_state_survives_json_and_fits_512_bytes(built_dataset):
    stream = open_stream(config_of(built_dataset, seed=2**63 - 1))
    state = stream.state(2**62)
    assert len(state.to_json().encode()) <= 512
    assert StreamState.from_json(state.to_json()) == state
    stream.check_state(StreamState.from_json(state.to_json()))


def test_state_of_another_stream_is_refused_with_both_sides(built_dataset, other_dataset):
    state = open_stream(config_of(built_dataset, seed=1)).state(640)
    others = {
        "seed: saved 1, now 2": config_of(built_dataset, seed=2),
        "sequence_length_tokens: saved 64, now 32": config_of(built_dataset, seed=1, length=32),
        "fingerprint: saved": config_of(other_dataset, seed=1),
        "mixture_hash: saved": config_of(built_dataset, other_dataset, seed=1),
    }
    for message, config in others.items():
        with pytest.raises(DataError, match=message) as caught:
            open_stream(config).check_state(state)
        assert "640 samples" in str(caught.value)
        assert caught.value.exit_code == 78


def test_equal_weights_are_equal_however_written(built_dataset, other_dataset):
    first, second = (
        open_stream(config_of(built_dataset, other_dataset, weights=weights)) for weights in ([1, 3], [0.5, 1.5])
    )
    second.check_state(first.state(5))


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"version": 1}', '{"consumed_samples": -1}'])
def test_text_that_is_no_state_is_refused(text):
    with pytest.raises(DataError, match="stream state"):
        StreamState.from_json(text)


def test_missing_and_truncated_shards_are_refused_at_opening(dataset):
    shard = dataset / read_manifest(dataset).train[1].file
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(DataError, match=rf"{shard.name}: {len(content) - 100} bytes, the manifest says {len(content)}"):
        open_stream(config_of(dataset))
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}: .*No such file.*{len(content)} bytes"):
        open_stream(config_of(dataset))


def test_shard_cut_off_after_opening_is_an_error_and_no_crash(dataset):
    stream = open_stream(config_of(dataset))
    shard = dataset / read_manifest(dataset).train[0].file
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DataError, match="1000 bytes"):
        stream.read(np.arange(stream.num_sequences))


def test_wrong_magic_is_refused_when_the_shard_is_touched(dataset):
    shard = dataset / read_manifest(dataset).train[0].file
    shard.write_bytes(b"PARQUE" + shard.read_bytes()[6:])
    stream = open_stream(config_of(dataset))
    with pytest.raises(DataError, match="byte 0 holds b'PARQUE'"):
        stream.read(np.arange(stream.num_sequences))


def test_sources_of_two_tokenizers_are_refused(built_dataset, corpus, tmp_path):
    from data_pipeline.config import TokenizerTrainingConfig
    from data_pipeline.preparation.prepare import prepare_dataset
    from data_pipeline.tokenizer_training import train_tokenizer

    other = train_tokenizer([corpus], tmp_path, TokenizerTrainingConfig(vocabulary_size=400)).tokenizer
    text = tmp_path / "text.txt"
    text.write_text("some words " * 200)
    prepared = prepare_dataset(
        [text], other.path, tmp_path / "out", read_manifest(built_dataset).preparation, num_workers=1
    )
    assert prepared.manifest.tokenizer.vocabulary_size == 400
    with pytest.raises(DataError, match="different tokenizers"):
        open_stream(config_of(built_dataset, tmp_path / "out"))


def test_too_little_text_for_one_sequence_is_refused(built_dataset):
    with pytest.raises(DataError, match="one sequence needs 1000001"):
        open_stream(config_of(built_dataset, length=1_000_000))


def test_a_directory_without_a_manifest_is_no_dataset(built_dataset, tmp_path):
    shutil.copytree(built_dataset, tmp_path / "half")
    (tmp_path / "half" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        open_stream(config_of(tmp_path / "half"))


def test_batches_become_torch_tensors(built_dataset):
    import torch

    from data_pipeline.torch_batch import to_tensors

    batch = open_stream(config_of(built_dataset)).read(np.arange(3))
    tokens, labels, positions = to_tensors(batch)
    assert positions is None
    assert tokens.dtype == labels.dtype == torch.int64
    assert tokens.shape == (3, LENGTH)
    assert torch.equal(tokens[:, 1:], labels[:, :-1])
    assert tokens.numpy().tolist() == batch.tokens.tolist()
