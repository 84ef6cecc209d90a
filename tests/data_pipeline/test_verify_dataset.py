"""Verify finds every damage and says where; inspect tells the truth in numbers."""

import json
import math
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.document_statistics import entropy_nats
from data_pipeline.errors import DataError
from data_pipeline.inspection import inspect_split
from data_pipeline.manifest import Manifest, read_manifest, write_manifest
from data_pipeline.verification import verify_dataset


def first_shard(dataset):
    return dataset / read_manifest(dataset).train[0].file


def test_a_whole_dataset_passes(built_dataset):
    manifest = read_manifest(built_dataset)
    verified = verify_dataset(built_dataset)
    assert verified.num_tokens == sum(shard.num_tokens for shard in manifest.all_shards())
    assert verified.num_documents == 60
    assert verified.fingerprint == manifest.fingerprint


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_of_any_file_is_found(built_dataset, data):
    names = sorted(
        path.relative_to(built_dataset).as_posix()
        for path in built_dataset.rglob("*")
        if path.is_file() and path.name != ".lock"
    )
    path = built_dataset / data.draw(st.sampled_from(names))
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(content)
    damaged[place] ^= 1 << bit
    try:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=re.escape(path.name)):
            verify_dataset(built_dataset)
    finally:
        path.write_bytes(content)


def test_a_flipped_byte_is_narrowed_down_to_its_record_batch(dataset):
    shard = first_shard(dataset)
    batch = read_manifest(dataset).train[0].record_batches[2]
    content = bytearray(shard.read_bytes())
    content[batch.tokens_offset_bytes + 5] ^= 0xFF
    shard.write_bytes(content)
    end = batch.offset_bytes + batch.length_bytes
    place = rf"{shard.name}: record batch 2 differs, somewhere in bytes {batch.offset_bytes}\.\.{end}"
    with pytest.raises(DataError, match=place) as caught:
        verify_dataset(dataset)
    assert "2 fault(s)" in str(caught.value)
    assert caught.value.exit_code == 78


def test_missing_truncated_and_replaced_shards_are_all_listed(dataset):
    first, second, third = (dataset / shard.file for shard in read_manifest(dataset).train[:3])
    first.unlink()
    size = second.stat().st_size
    second.write_bytes(second.read_bytes()[: size // 2])
    third.write_bytes(read_manifest_shard(dataset, 3))
    with pytest.raises(DataError) as caught:
        verify_dataset(dataset)
    message = str(caught.value)
    assert f"{first}: the file cannot be read (No such file or directory)" in message
    assert f"{second}: {size // 2} bytes, the manifest says {size}" in message
    assert str(third) in message


def read_manifest_shard(dataset, number):
    return (dataset / read_manifest(dataset).train[number].file).read_bytes()


def test_a_shard_replaced_by_one_of_the_same_size_is_found(dataset):
    shard = first_shard(dataset)
    content = bytearray(shard.read_bytes())
    batch = read_manifest(dataset).train[0].record_batches[0]
    start = batch.tokens_offset_bytes
    tokens = np.frombuffer(bytes(content[start : start + 2 * batch.num_tokens]), np.uint16)
    content[start : start + 2 * batch.num_tokens] = tokens[::-1].tobytes()
    shard.write_bytes(content)
    with pytest.raises(DataError, match="record batch 0 differs"):
        verify_dataset(dataset)


def test_ids_outside_the_vocabulary_are_named_with_their_byte(dataset):
    """The files are whole, but the manifest claims a smaller vocabulary."""
    manifest = read_manifest(dataset)
    smaller = manifest.tokenizer.model_copy(update={"vocabulary_size": 300})
    write_manifest(dataset, manifest.model_copy(update={"tokenizer": smaller}))
    with pytest.raises(DataError, match=r"id \d+ at byte \d+, the vocabulary is 0\.\.299"):
        verify_dataset(dataset)


def test_documents_without_the_ids_that_the_manifest_promises_are_found(dataset):
    """The files are whole, but the manifest claims another end and a beginning."""
    manifest = read_manifest(dataset)
    preparation = manifest.preparation.model_copy(update={"adds_bos": True})
    write_manifest(dataset, manifest.model_copy(update={"preparation": preparation}))
    with pytest.raises(DataError, match=f"does not begin with the id {manifest.tokenizer.bos_id}"):
        verify_dataset(dataset)
    other = manifest.tokenizer.model_copy(update={"eos_id": 299})
    write_manifest(dataset, manifest.model_copy(update={"tokenizer": other}))
    with pytest.raises(DataError, match="does not end with the id 299"):
        verify_dataset(dataset)


def test_wrong_counts_in_a_manifest_are_found(dataset):
    manifest = read_manifest(dataset)
    wrong = manifest.train[0].model_copy(update={"num_documents": 1})
    write_manifest(dataset, manifest.model_copy(update={"train": [wrong, *manifest.train[1:]]}))
    with pytest.raises(DataError, match=r"documents and \d+ tokens, the manifest says 1 and"):
        verify_dataset(dataset)


def test_an_edited_manifest_is_refused(dataset):
    path = dataset / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"adds_eos": true', b'"adds_eos": null'))
    with pytest.raises(DataError, match="damaged or edited"):
        read_manifest(dataset)


def test_a_manifest_cut_off_or_of_another_program_is_refused(dataset):
    path = dataset / "manifest.json"
    content = path.read_bytes()
    for other in (content[:500], b"", b'{"format": "other"}'):
        path.write_bytes(other)
        with pytest.raises(DataError, match="without the closing checksum"):
            read_manifest(dataset)


def test_a_manifest_of_another_version_is_refused(dataset):
    manifest = read_manifest(dataset)
    newer = Manifest.model_construct(
        **{name: getattr(manifest, name) for name in Manifest.model_fields} | {"version": 9}
    )
    write_manifest(dataset, newer)
    with pytest.raises(DataError, match="version 9 of the format, this program reads version 2"):
        read_manifest(dataset)


def test_a_manifest_is_plain_json(built_dataset):
    values = json.loads((built_dataset / "manifest.json").read_text())
    assert values["format"] == "llama-dist-dataset"
    assert values["tokenizer"]["vocabulary_size"] == 512


def test_the_index_of_the_shards_is_plain_arrow(built_dataset):
    rows = pa.ipc.open_file(str(built_dataset / "shards.arrow")).read_all().to_pylist()
    manifest = read_manifest(built_dataset)
    assert [row["file"] for row in rows] == [shard.file for shard in manifest.all_shards()]
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert [row["record_batches"][0]["num_tokens"] for row in rows] == [
        shard.record_batches[0].num_tokens for shard in manifest.all_shards()
    ]


def test_inspection_agrees_with_a_count_by_hand(built_dataset, tokenizer):
    for split in ("train", "validation"):
        summary = inspect_split(built_dataset, split, num_samples=4, sample_characters=50)
        shards = read_manifest(built_dataset).shards(split)
        rows = [
            row
            for shard in shards
            for row in pa.ipc.open_file(str(built_dataset / shard.file)).read_all()["tokens"].to_pylist()
        ]
        counts = Counter(token for row in rows for token in row)
        total = sum(counts.values())
        entropy = -sum(count / total * math.log(count / total) for count in counts.values())
        assert summary.num_tokens == total
        assert summary.num_documents == len(rows)
        # Summation order alone differs.
        assert summary.unigram_entropy_nats == pytest.approx(entropy, abs=1e-9)
        assert summary.samples == [tokenizer.decode(rows[k * len(rows) // 4])[:50] for k in range(4)]


def test_entropy_of_equal_counts_is_the_logarithm_of_their_number():
    assert entropy_nats(np.array([3, 0, 3, 3])) == pytest.approx(math.log(3), abs=1e-12)
    assert entropy_nats(np.array([0, 7])) == 0


def test_inspecting_an_empty_split_says_so(dataset):
    manifest = read_manifest(dataset)
    write_manifest(dataset, manifest.model_copy(update={"validation": []}))
    with pytest.raises(DataError, match="the validation split is empty"):
        inspect_split(dataset, "validation")
