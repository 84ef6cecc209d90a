"""Positions and labels follow the documents, however these fall on rows, record batches and shards."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.batch import IGNORED_LABEL
from data_pipeline.config import DataConfig, SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.manifest import read_manifest
from data_pipeline.row_buffers import restart_positions
from data_pipeline.stream import SEQUENCE_ID_BITS, open_stream


def config_of(directory, length, **values) -> DataConfig:
    return DataConfig(sources=[SourceConfig(path=str(directory))], sequence_length_tokens=length, **values)


def document_ends(directory) -> np.ndarray:
    """Places of the token line after each training document, read by pyarrow alone."""
    tables = [pa.ipc.open_file(str(directory / shard.file)).read_all() for shard in read_manifest(directory).train]
    lengths = np.concatenate([table["tokens"].combine_chunks().value_lengths().to_numpy() for table in tables])
    return np.cumsum(lengths)


# Rows shorter than documents, and rows longer than record batches and shards.
@pytest.mark.parametrize("length", [8, 64, 5000, 40_000])
def test_positions_and_labels_follow_the_stored_documents(built_dataset, length):
    ends = document_ends(built_dataset)
    stream = open_stream(config_of(built_dataset, length, isolate_documents=True, mask_boundary_labels=True))
    batch = stream.read(np.arange(stream.num_sequences))
    plain = open_stream(config_of(built_dataset, length)).read(np.arange(stream.num_sequences))
    starts = (batch.sample_ids & ((1 << SEQUENCE_ID_BITS) - 1)) * length
    places = starts[:, None] + np.arange(length)
    document_starts = np.concatenate(([0], ends))[np.searchsorted(ends, places, side="right")]
    assert np.array_equal(batch.positions, places - np.maximum(document_starts, starts[:, None]))
    is_last = np.isin(places + 1, ends)
    assert is_last.any()
    assert np.array_equal(batch.labels, np.where(is_last, IGNORED_LABEL, plain.labels))
    assert np.array_equal(batch.tokens, plain.tokens)


def test_masks_alone_and_positions_alone_are_those_of_both(built_dataset):
    both, positions, labels = (
        open_stream(config_of(built_dataset, 64, **values)).read(np.arange(50))
        for values in (
            {"isolate_documents": True, "mask_boundary_labels": True},
            {"isolate_documents": True},
            {"mask_boundary_labels": True},
        )
    )
    assert np.array_equal(positions.positions, both.positions)
    assert np.array_equal(labels.labels, both.labels)
    assert labels.positions is None
    assert positions.num_labels == positions.labels.size > labels.num_labels


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n + 5)))))
@settings(max_examples=200, deadline=None)
def test_positions_restart_at_each_start(case):
    length, starts = case
    row = np.full(length, -1)
    restart_positions(row, sorted(starts), np.arange(length))
    last, expected = 0, []
    for place in range(length):
        last = place if place in starts else last
        expected.append(place - last)
    assert row.tolist() == expected


def test_memory_of_a_step_is_used_again_and_that_of_read_is_not(built_dataset):
    stream = open_stream(config_of(built_dataset, 64, isolate_documents=True))
    kinds = {"dp_rank": 0, "dp_size": 1, "micro_batch_sequences": 2, "num_micro_batches": 2}
    first, second = stream.micro_batches(0, **kinds)
    assert not np.shares_memory(first.tokens, second.tokens)
    read = stream.read(np.arange(2))
    again, _ = stream.micro_batches(4, **kinds)
    assert np.shares_memory(first.tokens, again.tokens)
    assert not np.shares_memory(first.tokens, read.tokens)


def test_an_id_outside_the_vocabulary_is_named_with_its_file_and_byte(dataset):
    shard = read_manifest(dataset).train[1]
    byte = shard.record_batches[0].tokens_offset_bytes + 2 * 777
    content = bytearray((dataset / shard.file).read_bytes())
    content[byte : byte + 2] = b"\xff\xff"
    (dataset / shard.file).write_bytes(content)
    stream = open_stream(config_of(dataset, 64))
    with pytest.raises(DataError, match=rf"id 65535 in {shard.file}, byte {byte}: the vocabulary is 0\.\.511"):
        stream.read(np.arange(stream.num_sequences))


def test_bounds_that_do_not_rise_are_refused(dataset):
    shard = read_manifest(dataset).train[0]
    byte = shard.record_batches[0].list_offsets_offset_bytes
    content = bytearray((dataset / shard.file).read_bytes())
    content[byte + 4 : byte + 8] = b"\xff\xff\xff\x7f"
    (dataset / shard.file).write_bytes(content)
    stream = open_stream(config_of(dataset, 64, isolate_documents=True))
    with pytest.raises(DataError, match=rf"{shard.file}: the documents' bounds at byte {byte} do not rise"):
        stream.read(np.arange(stream.num_sequences))


@pytest.mark.parametrize("change", ["vanished", "replaced", "cut"])
def test_a_shard_that_changed_after_opening_is_an_error_when_first_touched(dataset, change):
    stream = open_stream(config_of(dataset, 64))
    path = dataset / read_manifest(dataset).train[0].file
    content = path.read_bytes()
    path.unlink()
    if change != "vanished":
        path.write_bytes(content[:1000] if change == "cut" else content + content)
    with pytest.raises(DataError, match=path.name):
        stream.read(np.arange(stream.num_sequences))
