"""Each kind of bad dataset is named by `data verify` and by the stream, and never ends the process by a signal.

Where the shard alone is bad, the manifest is sealed again over it, so that checks behind the checksum are reached.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.durable_file import checksum_bytes, checksum_file
from data_pipeline.errors import DataError
from data_pipeline.manifest import Manifest, ShardEntry, fingerprint_shards, read_manifest, write_manifest
from data_pipeline.packing.pack_dataset import pack_split
from data_pipeline.preparation.shard_writer import read_record_batch_entries, shard_schema
from data_pipeline.shard_reader import read_batches

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("bad_dataset_program.py")


def outcomes(directory: Path) -> dict[str, dict[str, object]]:
    result = subprocess.run(
        [sys.executable, str(PROGRAM), str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, f"ended with {result.returncode}:\n{result.stderr[-3000:]}"
    return json.loads(result.stdout.splitlines()[-1])


def first_shard(directory: Path) -> Path:
    return directory / read_manifest(directory).train[0].file


def seal_again(directory: Path, shard: ShardEntry) -> None:
    """Put `shard` in the place of the first one, as a program would that wrote a bad shard and a manifest that fits."""
    manifest: Manifest = read_manifest(directory)
    train = [shard, *list(manifest.train)[1:]]
    fingerprint = fingerprint_shards(train, manifest.validation, manifest.tokenizer, manifest.token_dtype)
    write_manifest(directory, manifest.model_copy(update={"train": train, "fingerprint": fingerprint}))


def replace_shard(directory: Path, batches: list[pa.RecordBatch], schema: pa.Schema, *, describe: bool) -> None:
    """Write `batches` as the first shard; `describe` where their buffers can be described, else keep the old places."""
    path, old = first_shard(directory), read_manifest(directory).train[0]
    size = path.stat().st_size
    with pa.ipc.new_file(str(path), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    if not describe:
        # Not shorter, so that the places which the manifest names exist.
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    entries = read_record_batch_entries(path) if describe else list(old.record_batches)
    seal_again(
        directory,
        ShardEntry(
            file=old.file,
            num_bytes=path.stat().st_size,
            num_documents=sum(entry.num_documents for entry in entries),
            num_tokens=sum(entry.num_tokens for entry in entries),
            num_text_bytes=old.num_text_bytes,
            checksum=checksum_file(path),
            record_batches=entries,
        ),
    )


def rows_of(directory: Path) -> tuple[list[list[int]], list[bytes]]:
    table = pa.ipc.open_file(str(first_shard(directory))).read_all()
    return table["tokens"].to_pylist(), table["doc_id"].to_pylist()


def truncated(directory: Path) -> None:
    path = first_shard(directory)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_to_nothing(directory: Path) -> None:
    first_shard(directory).write_bytes(b"")


def wrong_magic(directory: Path) -> None:
    path = first_shard(directory)
    path.write_bytes(b"PAR1PA" + path.read_bytes()[6:])


def wrong_schema(directory: Path) -> None:
    tokens, ids = rows_of(directory)
    schema = pa.schema([("tokens", pa.list_(pa.int32())), ("doc_id", pa.binary(16))])
    replace_shard(directory, [pa.record_batch([tokens, pa.array(ids, pa.binary(16))], schema)], schema, describe=True)


def wrong_columns(directory: Path) -> None:
    schema = pa.schema([("text", pa.string())])
    replace_shard(directory, [pa.record_batch([["x" * 5000] * 20], schema)], schema, describe=False)


def null_document(directory: Path) -> None:
    tokens, ids = rows_of(directory)
    tokens[3] = None
    schema = shard_schema("uint16")
    batch = pa.record_batch([pa.array(tokens, schema[0].type), pa.array(ids, schema[1].type)], schema)
    replace_shard(directory, [batch], schema, describe=True)


def null_token(directory: Path) -> None:
    tokens, ids = rows_of(directory)
    tokens[2][0] = None
    schema = shard_schema("uint16")
    batch = pa.record_batch([pa.array(tokens, schema[0].type), pa.array(ids, schema[1].type)], schema)
    replace_shard(directory, [batch], schema, describe=True)


def zero_rows(directory: Path) -> None:
    replace_shard(directory, [], shard_schema("uint16"), describe=True)


def empty_batch(directory: Path) -> None:
    schema, (tokens, ids) = shard_schema("uint16"), rows_of(directory)
    full = pa.record_batch([pa.array(tokens, schema[0].type), pa.array(ids, schema[1].type)], schema)
    with pa.ipc.new_file(str(first_shard(directory)), schema) as writer:
        writer.write_batch(full)
        writer.write_batch(full.slice(0, 0))


def flipped_byte(directory: Path) -> None:
    """The lower byte of an id, so that another id of the vocabulary comes of it."""
    path, batch = first_shard(directory), read_manifest(directory).train[0].record_batches[1]
    content = bytearray(path.read_bytes())
    content[batch.tokens_offset_bytes + 4] ^= 0x01
    path.write_bytes(content)


def flipped_bound(directory: Path) -> None:
    path, batch = first_shard(directory), read_manifest(directory).train[0].record_batches[1]
    content = bytearray(path.read_bytes())
    content[batch.list_offsets_offset_bytes + 7] ^= 0x7F
    path.write_bytes(content)


def id_outside(directory: Path) -> None:
    path, shard = first_shard(directory), read_manifest(directory).train[0]
    batch = shard.record_batches[1]
    content = bytearray(path.read_bytes())
    content[batch.tokens_offset_bytes + 4 : batch.tokens_offset_bytes + 6] = np.uint16(60_000).tobytes()
    path.write_bytes(content)
    end = batch.offset_bytes + batch.length_bytes
    mended = batch.model_copy(update={"checksum": checksum_bytes(bytes(content[batch.offset_bytes : end]))})
    batches = list(shard.record_batches)
    batches[1] = mended
    seal_again(directory, shard.model_copy(update={"checksum": checksum_file(path), "record_batches": batches}))


def another_tokenizer(directory: Path) -> None:
    path = directory / "tokenizer.model"
    path.write_bytes(path.read_bytes() + b"\0")


def replaced_by_another(directory: Path) -> None:
    shards = read_manifest(directory).train
    other = next(shard for shard in list(shards)[1:] if shard.num_bytes != shards[0].num_bytes)
    shutil.copyfile(directory / other.file, first_shard(directory))


def missing(directory: Path) -> None:
    first_shard(directory).unlink()


# What `data verify` must say of each, and what the stream must; None where only the checksum can tell, which the
# stream leaves to `data verify`, since it would have to read megabytes for a first sample. Where the manifest itself
# gives the fault away, it is refused before the shard is looked at.
_OTHER_LAYOUT = r"train-00000-000\.arrow holds another schema, nulls or no row"
CASES = {
    truncated: (r"\d+ bytes, the manifest says \d+: the file was cut off", r"\d+ bytes, the manifest says \d+"),
    truncated_to_nothing: (r": 0 bytes, the manifest says \d+", r": 0 bytes, the manifest says \d+"),
    wrong_magic: (r"checksum .* the damage is in the header", r"byte 0 holds b'PAR1PA'"),
    wrong_schema: (_OTHER_LAYOUT, _OTHER_LAYOUT),
    wrong_columns: (r"wrong schema: has the columns text: string; needed tokens", r"bounds|id \d+"),
    null_document: (r"record batch 0: 1 null\(s\) in tokens, the first at row 3", r"bounds at byte \d+ do not rise"),
    null_token: (_OTHER_LAYOUT, _OTHER_LAYOUT),
    zero_rows: (r"train-00000-000\.arrow has zero rows", r"train-00000-000\.arrow has zero rows"),
    flipped_byte: (r"record batch 1 differs, somewhere in bytes \d+\.\.\d+", None),
    flipped_bound: (r"record batch 1 differs, somewhere in bytes \d+\.\.\d+", r"bounds at byte \d+ do not rise from 0"),
    id_outside: (r"id 60000 at byte \d+, the vocabulary is 0\.\.511", r"60000"),
    another_tokenizer: (r"tokenizer\.model: checksum", r"tokenizer\.model: checksum .* another tokenizer's file"),
    replaced_by_another: (r"\d+ bytes, the manifest says \d+", r"\d+ bytes, the manifest says \d+"),
    missing: (r"the file cannot be read \(No such file", r"the file cannot be read \(No such file"),
}


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_a_bad_dataset_is_refused_by_name_and_never_by_a_signal(damage, dataset):
    damaged_file = "tokenizer.model" if damage is another_tokenizer else first_shard(dataset).name
    damage(dataset)
    by_verify, by_stream = CASES[damage]
    found = outcomes(dataset)
    assert found["verify"]["code"] == 78, found
    assert damaged_file in found["verify"]["message"]
    assert matches(by_verify, found["verify"]["message"]), found["verify"]["message"]
    for way in ("plain", "isolated"):
        if by_stream is None:
            assert found[way]["code"] == 0, found
        else:
            assert found[way]["code"] == 78, found
            assert matches(by_stream, found[way]["message"]), found[way]["message"]


def matches(pattern: str, text: object) -> bool:
    return re.search(pattern, str(text), flags=re.DOTALL) is not None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (wrong_schema, r"wrong schema: has the columns tokens: list<item: int32>.*; needed tokens: list<item: uint16>"),
        (null_token, r"record batch 0: 1 null\(s\) in the values of tokens, the first at row \d+"),
        (empty_batch, r"record batch 1: zero rows"),
    ],
)
def test_a_shard_read_through_arrow_is_refused_by_its_fault(damage, message, dataset):
    """What `data verify` and `data inspect` would say if the manifest did not give it away."""
    path = first_shard(dataset)
    damage(dataset)
    with pytest.raises(DataError, match=message):
        list(read_batches(path, "uint16"))


def test_a_whole_dataset_passes_all_three(built_dataset):
    assert {name: one["code"] for name, one in outcomes(built_dataset).items()} == {
        "verify": 0,
        "plain": 0,
        "isolated": 0,
    }


def test_the_command_ends_with_the_code_for_bad_data(dataset):
    truncated(dataset)
    result = subprocess.run(
        [sys.executable, "-m", "launcher", "data", "verify", str(dataset)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    assert result.returncode == 78, result.stderr
    assert first_shard(dataset).name in result.stderr


def verify_message(directory: Path) -> str:
    from data_pipeline.verification import verify_dataset

    with pytest.raises(DataError) as caught:
        verify_dataset(directory)
    return str(caught.value)


def test_files_that_the_manifest_does_not_name_are_listed(dataset):
    (dataset / "shards" / "train-00009-000.arrow").write_bytes(b"x" * 10)
    (dataset / "shards" / "train-00000-000.arrow.tmp-123").write_bytes(b"x" * 7)
    (dataset / "notes.txt").write_bytes(b"abc")
    message = verify_message(dataset)
    assert "3 fault(s)" in message
    assert "train-00009-000.arrow: 10 bytes of a shard that the manifest does not name" in message
    assert "train-00000-000.arrow.tmp-123: 7 bytes left by a process that was killed" in message
    assert "notes.txt: 3 bytes of a file of others" in message


def test_a_pack_index_is_verified_with_its_dataset(dataset):
    from data_pipeline.verification import verify_dataset

    packed = pack_split(dataset, "train", 64)
    verify_dataset(dataset)
    path = dataset / "packs" / "train-64.arrow"
    content = bytearray(path.read_bytes())
    content[packed.record.groups.starts_offset_bytes[0] + 8] ^= 0x01
    path.write_bytes(content)
    assert "train-64.arrow: checksum" in verify_message(dataset)


def test_a_token_packed_twice_or_across_documents_is_found():
    from data_pipeline.pack_verification import group_faults
    from data_pipeline.packing.pack_index import Pack

    def pack(*fragments: tuple[int, int]) -> Pack:
        return Pack(np.array([a for a, _ in fragments]), np.array([b for _, b in fragments], np.int32), False)

    ends = np.array([0, 5, 9, 20], dtype=np.int64)
    good = [pack((9, 8)), pack((0, 5)), pack((17, 3), (5, 4))]
    assert list(group_faults(good, ends, 8)) == []
    assert list(group_faults([pack((9, 8)), pack((0, 5), (5, 4)), pack((17, 3))], ends, 8)) == [
        "a sequence has 9 tokens, at most 8 fit"
    ]
    assert "token 5 of the split is packed twice" in next(group_faults(good[:2], ends, 8))
    assert "token 5 of the split is packed twice" in next(group_faults([*good, pack((0, 5))], ends, 8))
    crossing = [pack((0, 6)), pack((6, 3)), pack((9, 8)), pack((17, 3))]
    assert list(group_faults(crossing, ends, 8)) == ["the fragment at token 0 goes past the end of its document"]
