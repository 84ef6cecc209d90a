"""Packs hold every fragment once, waste little, and are refused when they do not fit the data."""

import json
import random
import re
import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from data_pipeline.batch import IGNORED_LABEL
from data_pipeline.config import DataConfig, SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.manifest import read_manifest
from data_pipeline.packing.best_fit import assign_bins, pack_documents
from data_pipeline.packing.pack_dataset import group_shards, pack_split
from data_pipeline.stream import open_stream
from launcher.cli import app

LENGTH = 64


def packed_config(directory, length=LENGTH, **values) -> DataConfig:
    source = SourceConfig(path=str(directory))
    return DataConfig(sources=[source], sequence_length_tokens=length, packing="best_fit", **values)


def textbook_rooms(lengths: list[int], capacity: int) -> list[int]:
    """Rooms left by best fit, one fragment at a time."""
    rooms: list[int] = []
    for length in lengths:
        fitting = [number for number, room in enumerate(rooms) if room >= length]
        if not fitting:
            rooms.append(capacity)
        best = min(fitting, key=lambda number: rooms[number]) if fitting else len(rooms) - 1
        rooms[best] -= length
    return sorted(rooms)


@given(st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), st.lists(st.integers(1, size), max_size=80))))
@settings(max_examples=200, deadline=None)
def test_packing_by_counts_is_the_textbooks_best_fit_decreasing(case):
    capacity, lengths = case
    lengths = sorted(lengths, reverse=True)
    bins, num_bins = assign_bins(np.array(lengths, dtype=np.int64), capacity)
    filled = np.bincount(bins, weights=lengths, minlength=num_bins) if lengths else np.zeros(0)
    assert sorted((capacity - filled).astype(int).tolist()) == textbook_rooms(lengths, capacity)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 64))
@settings(max_examples=200, deadline=None)
def test_every_token_is_in_one_pack_once(lengths, size):
    lengths = np.array(lengths, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    packs = pack_documents(starts, lengths, size)
    seen = np.concatenate(
        [np.arange(start, start + length) for start, length in zip(packs.starts, packs.lengths, strict=True)] or [[]]
    )
    assert sorted(seen.tolist()) == list(range(int(lengths.sum())))
    assert all(packs.lengths[a:b].sum() <= size for a, b in zip(packs.bounds[:-1], packs.bounds[1:], strict=True))
    # A document is cut only into whole rows and a rest.
    ends = set((starts + lengths).tolist())
    for number, (start, length) in enumerate(zip(packs.starts.tolist(), packs.lengths.tolist(), strict=True)):
        goes_on = start + length not in ends
        assert goes_on == (number < packs.num_continued)
        assert not goes_on or length == size


def test_padding_of_many_documents_is_below_a_thousandth():
    source = random.Random(0)
    lengths = np.array([max(1, int(source.lognormvariate(6, 1.3))) for _ in range(20_000)], dtype=np.int64)
    for size in (256, 2048):
        packs = pack_documents(np.cumsum(lengths) - lengths, lengths, size)
        num_places = (len(packs.bounds) - 1) * size
        assert 1 - lengths.sum() / num_places <= 0.001


def test_shards_are_grouped_with_the_rest_in_the_last_group():
    assert group_shards([5, 5, 5, 5, 3], 10) == [range(2), range(2, 5)]
    assert group_shards([3], 10) == [range(1)]
    assert group_shards([], 10) == []
    assert group_shards([20, 20], 10) == [range(1), range(1, 2)]


@pytest.mark.parametrize("length", [8, LENGTH, 4096])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_packed_rows_hold_whole_documents_with_their_labels(dataset, split, length):
    """Against the documents as pyarrow reads them: each pair of neighbours inside a document is trained on once."""
    pack_split(dataset, split, length, least_group_tokens=15_000)
    stream = open_stream(packed_config(dataset, length, isolate_documents=True), split=split)
    batch = stream.read(np.arange(stream.num_sequences))
    tables = [pa.ipc.open_file(str(dataset / shard.file)).read_all() for shard in read_manifest(dataset).shards(split)]
    documents = [row for table in tables for row in table["tokens"].to_pylist()]
    pairs = sorted(pair for document in documents for pair in pairwise(document))
    kept = batch.labels != IGNORED_LABEL
    assert sorted(zip(batch.tokens[kept].tolist(), batch.labels[kept].tolist(), strict=True)) == pairs
    # Parts are documents, or pieces of those longer than a row; all others are whole.
    bounds = batch.cu_seqlens()
    parts = Counter(tuple(part.tolist()) for part in np.split(batch.tokens.ravel(), bounds[1:-1]))
    whole = Counter(tuple(document) for document in documents if len(document) <= length)
    assert not whole - parts


def test_groups_of_a_split_are_those_of_the_order(dataset):
    pack_split(dataset, "train", LENGTH, least_group_tokens=15_000)
    stream = open_stream(packed_config(dataset))
    sequences = stream.sources[0].sequences
    assert len(sequences.group_sizes) > 1
    assert sequences.group_sizes.sum() == sequences.num_sequences == stream.num_sequences
    assert sequences.group_bytes.sum() == sum(shard.num_bytes for shard in read_manifest(dataset).train)


def test_packing_again_writes_nothing_and_damage_is_mended(dataset):
    first = pack_split(dataset, "train", LENGTH)
    path = dataset / "packs" / f"train-{LENGTH}.arrow"
    content = path.read_bytes()
    assert not first.was_there
    assert pack_split(dataset, "train", LENGTH).was_there
    path.write_bytes(content[:-8] + b"damaged!")
    assert not pack_split(dataset, "train", LENGTH).was_there
    assert path.read_bytes() == content


def test_a_pack_index_is_plain_arrow(dataset):
    record = pack_split(dataset, "train", LENGTH).record
    rows = pa.ipc.open_file(str(dataset / "packs" / f"train-{LENGTH}.arrow")).read_all()["fragments"].to_pylist()
    assert len(rows) == record.num_packs
    assert sum(fragment["length"] for row in rows for fragment in row) == record.num_tokens


def test_a_stream_without_an_index_that_fits_names_the_command(dataset, other_dataset):
    command = re.escape(f"llama-dist data pack {dataset} --sequence-length {LENGTH}")
    with pytest.raises(DataError, match=command):
        open_stream(packed_config(dataset))
    pack_split(dataset, "train", LENGTH)
    path = dataset / "packs" / f"train-{LENGTH}.arrow"
    content = path.read_bytes()

    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=command):
        open_stream(packed_config(dataset))
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    path.write_bytes(damaged)
    stream = open_stream(packed_config(dataset))
    with pytest.raises(DataError, match=command):
        stream.read(np.arange(stream.num_sequences))
    path.unlink()
    with pytest.raises(DataError, match=command):
        open_stream(packed_config(dataset))

    copy = dataset.parent / "other"
    shutil.copytree(other_dataset, copy)
    pack_split(copy, "train", LENGTH)
    shutil.copytree(copy / "packs", dataset / "packs", dirs_exist_ok=True)
    with pytest.raises(DataError, match=command):
        open_stream(packed_config(dataset))
    assert not pack_split(dataset, "train", LENGTH).was_there
    open_stream(packed_config(dataset)).read(np.arange(10))


def test_the_verb_packs_both_splits_and_tells_the_waste(dataset):
    result = CliRunner().invoke(app, ["data", "pack", str(dataset), "--sequence-length", str(LENGTH), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    shards = read_manifest(dataset).train
    places = told["train_sequences"] * LENGTH
    assert places - told["train_padding_tokens"] == sum(shard.num_tokens for shard in shards)
    assert told["train_padding_share"] == pytest.approx(told["train_padding_tokens"] / places, abs=1e-7)
    assert 0 < told["train_cut_documents"] < told["train_documents"]
    assert (dataset / "packs" / f"validation-{LENGTH}.json").exists()
