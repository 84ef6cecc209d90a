"""Megatron and MDS datasets become ours with every id kept, and damaged ones are refused by file and place."""

import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from foreign_formats import MEGATRON_CODES, write_megatron
from typer.testing import CliRunner

from data_pipeline.cli import data_app
from data_pipeline.config import DataConfig, SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.interop.import_dataset import import_dataset
from data_pipeline.interop.mds_files import MdsCorpus
from data_pipeline.interop.megatron_files import MegatronCorpus
from data_pipeline.manifest import read_manifest
from data_pipeline.stream import open_stream
from data_pipeline.verification import verify_dataset

FIXTURES = Path(__file__).parent / "fixtures"
EOS = 2


def made_documents(num_documents: int = 200, seed: int = 0, highest: int = 500) -> list[list[list[int]]]:
    """Documents of one to three sequences, ending with EOS."""
    source = random.Random(seed)
    documents = []
    for _ in range(num_documents):
        lengths = [source.randrange(1, 60) for _ in range(source.randrange(1, 4))]
        sequences = [[source.randrange(3, highest) for _ in range(length)] for length in lengths]
        sequences[-1].append(EOS)
        documents.append(sequences)
    return documents


def joined(document: list[list[int]]) -> tuple[int, ...]:
    return tuple(token for sequence in document for token in sequence)


def stored_documents(directory: Path) -> Counter:
    """All documents of a dataset, read by pyarrow alone."""
    manifest = read_manifest(directory)
    tables = [
        pa.ipc.open_file(str(directory / shard.file)).read_all() for shard in manifest.train + manifest.validation
    ]
    return Counter(tuple(row) for table in tables for row in table["tokens"].to_pylist())


def mds_documents() -> tuple[list[list[int]], list[str]]:
    sys.path.insert(0, str(FIXTURES))
    try:
        import mds_documents as module
    finally:
        sys.path.remove(str(FIXTURES))
    return module.IDS, module.TEXTS


@pytest.fixture
def mds(tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / "mds", tmp_path / "mds"))


@pytest.mark.parametrize("dtype", MEGATRON_CODES)
def test_megatron_documents_of_every_type_arrive_whole(dtype, tmp_path, tokenizer):
    highest = 120 if dtype in ("uint8", "int8") else 500
    documents = made_documents(highest=highest)
    write_megatron(tmp_path / "old", documents, dtype)
    imported = import_dataset(
        MegatronCorpus(tmp_path / "old"), tokenizer.path, tmp_path / "new", validation_fraction=0.2
    )
    assert stored_documents(tmp_path / "new") == Counter(map(joined, documents))
    assert imported.manifest.validation
    assert verify_dataset(tmp_path / "new").num_documents == len(documents)


def test_document_ids_and_split_come_from_the_ids_and_not_from_their_width_or_eos(tmp_path, tokenizer):
    documents = made_documents()
    write_megatron(tmp_path / "narrow", documents, "uint16")
    bare = [[*document[:-1], document[-1][:-1]] for document in documents if len(joined(document)) > 1]
    write_megatron(tmp_path / "wide", bare, "int64")
    ids = []
    for name, policy in (("narrow", "present"), ("wide", "add")):
        import_dataset(MegatronCorpus(tmp_path / name), tokenizer.path, tmp_path / f"of_{name}", end_of_sequence=policy)
        table = pa.ipc.open_file(str(tmp_path / f"of_{name}" / "shards" / "train-00000-000.arrow")).read_all()
        ids.append(dict(zip(table["doc_id"].to_pylist(), map(tuple, table["tokens"].to_pylist()), strict=True)))
    assert ids[0] == ids[1]
    for document_id, tokens in ids[0].items():
        assert document_id == xxhash.xxh3_128_digest(np.array(tokens[:-1], "<u4").tobytes())


def test_the_stream_reads_an_imported_dataset(tmp_path, tokenizer):
    documents = made_documents()
    write_megatron(tmp_path / "old", documents)
    import_dataset(MegatronCorpus(tmp_path / "old"), tokenizer.path, tmp_path / "new", validation_fraction=0)
    stream = open_stream(DataConfig(sources=[SourceConfig(path=str(tmp_path / "new"))], sequence_length_tokens=64))
    batch = stream.read(np.arange(stream.num_sequences))
    line = [token for document in documents for token in joined(document)]
    by_place = np.asarray(batch.tokens)[np.argsort(np.asarray(batch.sample_ids))].ravel()
    assert by_place.tolist() == line[: len(by_place)]


def test_sources_and_policy_are_recorded_and_a_second_import_does_nothing(tmp_path, tokenizer):
    write_megatron(tmp_path / "old", made_documents())
    corpus = MegatronCorpus(tmp_path / "old")
    assert not import_dataset(corpus, tokenizer.path, tmp_path / "new").was_there
    lines = [json.loads(line) for line in (tmp_path / "new" / "sources.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["old.idx", "old.bin"]
    assert {(line["format"], line["eos"]) for line in lines} == {("megatron", "present")}
    before = (tmp_path / "new" / "manifest.json").read_bytes()
    assert import_dataset(corpus, tokenizer.path, tmp_path / "new").was_there
    assert (tmp_path / "new" / "manifest.json").read_bytes() == before
    with pytest.raises(DataError, match="choose another --output"):
        import_dataset(corpus, tokenizer.path, tmp_path / "new", end_of_sequence="none")


def test_empty_documents_are_left_out_and_counted(tmp_path, tokenizer):
    write_megatron(tmp_path / "old", [[[5, EOS]], [], [[EOS]], [[6, 7, EOS]]])
    imported = import_dataset(MegatronCorpus(tmp_path / "old"), tokenizer.path, tmp_path / "new")
    assert imported.manifest.num_skipped_empty == 2
    assert stored_documents(tmp_path / "new") == Counter([(5, EOS), (6, 7, EOS)])


def test_an_id_outside_the_vocabulary_is_named_with_file_document_and_place(tmp_path, tokenizer):
    write_megatron(tmp_path / "old", [[[5, 6, EOS]], [[5, 6], [7, 600, EOS]]])
    with pytest.raises(DataError, match=r"old\.bin: document 1 at byte 6: id 600 at place 3 .* is 0\.\.511"):
        import_dataset(MegatronCorpus(tmp_path / "old"), tokenizer.path, tmp_path / "new")
    assert not (tmp_path / "new" / "manifest.json").exists()
    write_megatron(tmp_path / "signed", [[[5, -1, EOS]]], "int32")
    with pytest.raises(DataError, match=r"document 0 at byte 0: id -1 at place 1"):
        import_dataset(MegatronCorpus(tmp_path / "signed"), tokenizer.path, tmp_path / "new")
    write_megatron(tmp_path / "good", [[[5, EOS]]])
    import_dataset(MegatronCorpus(tmp_path / "good"), tokenizer.path, tmp_path / "new")
    assert verify_dataset(tmp_path / "new").num_documents == 1


def test_the_end_of_documents_is_checked_against_the_policy(tmp_path, tokenizer):
    write_megatron(tmp_path / "mixed", [[[5, 6, EOS]], [[5, 9]]])
    with pytest.raises(DataError, match="document 1 at byte 6: ends with id 9, not with the end-of-sequence id 2"):
        import_dataset(MegatronCorpus(tmp_path / "mixed"), tokenizer.path, tmp_path / "a")
    with pytest.raises(DataError, match="document 0 at byte 0: ends with the end-of-sequence id 2 already"):
        import_dataset(MegatronCorpus(tmp_path / "mixed"), tokenizer.path, tmp_path / "b", end_of_sequence="add")
    import_dataset(MegatronCorpus(tmp_path / "mixed"), tokenizer.path, tmp_path / "c", end_of_sequence="none")
    assert stored_documents(tmp_path / "c") == Counter([(5, 6, EOS), (5, 9)])


def test_a_directory_that_holds_other_things_is_left_alone(tmp_path, tokenizer, dataset):
    write_megatron(tmp_path / "old", [[[5, EOS]]])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (dataset / "manifest.json").unlink()
    for output in (tmp_path / "mine", dataset):
        before = sorted(path.name for path in output.rglob("*"))
        with pytest.raises(DataError, match="holds other things"):
            import_dataset(MegatronCorpus(tmp_path / "old"), tokenizer.path, output)
        assert sorted(path.name for path in output.rglob("*")) == before


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def overwrite(path: Path, byte: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[byte : byte + len(content)] = content
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder / "old.bin", 30), r"old\.bin: 30 bytes, old\.idx says \d+: it was cut off"),
        (lambda folder: cut(folder / "old.idx", 90), r"old\.idx: 90 bytes, 3 sequences and 3 document bounds need"),
        (lambda folder: cut(folder / "old.idx", 20), r"old\.idx: 20 bytes, the header alone has 34"),
        (lambda folder: cut(folder / "old.idx", 0), r"old\.idx: byte 0 holds b'', a Megatron index starts with"),
        (lambda folder: overwrite(folder / "old.idx", 0, b"TNTIDX\0\0"), r"old\.idx: byte 0 holds b'TNTIDX"),
        (lambda folder: overwrite(folder / "old.idx", 9, b"\2"), r"version 2 of the format at byte 9"),
        (lambda folder: overwrite(folder / "old.idx", 17, b"\7"), r"type code 7 at byte 17"),
        (lambda folder: overwrite(folder / "old.idx", 34 + 12, b"\xff" * 8), r"sequence 0 has 3 tokens at byte -1"),
        (lambda folder: overwrite(folder / "old.idx", 34, b"\xff" * 4), r"sequence 0 has -1 tokens"),
        (lambda folder: overwrite(folder / "old.idx", 34 + 36 + 8, b"\x09"), r"document 0 is sequences 0 to 9"),
        (
            lambda folder: overwrite(folder / "old.idx", 34 + 36 + 16, b"\x09"),
            r"document bounds go from 0 to 9, needed",
        ),
        (lambda folder: (folder / "old.bin").unlink(), r"old\.bin: cannot be read: No such file"),
    ],
)
def test_damaged_megatron_files_are_refused_by_file_and_place(damage, message, tmp_path, tokenizer):
    write_megatron(tmp_path / "old", [[[5, 6, EOS]], [[7, 8], [*list(range(3, 30)), EOS]]])
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        import_dataset(MegatronCorpus(tmp_path / "old"), tokenizer.path, tmp_path / "new")
    assert not (tmp_path / "new" / "manifest.json").exists()


@pytest.mark.parametrize("kind", ["ndarray_int32", "ndarray_zstd", "bytes_gz"])
def test_mds_ids_of_every_encoding_arrive_whole(kind, mds, tmp_path, tokenizer):
    import_dataset(MdsCorpus(mds / kind, "tokens"), tokenizer.path, tmp_path / "new", validation_fraction=0.2)
    ids, _ = mds_documents()
    assert stored_documents(tmp_path / "new") == Counter(map(tuple, ids))
    assert verify_dataset(tmp_path / "new").num_documents == len(ids)


def test_mds_text_is_tokenized_as_a_preparation_would(mds, tmp_path, tokenizer):
    imported = import_dataset(MdsCorpus(mds / "text", "text"), tokenizer.path, tmp_path / "new")
    _, texts = mds_documents()
    assert stored_documents(tmp_path / "new") == Counter((*tokenizer.encode(text), EOS) for text in texts)
    shards = imported.manifest.train + imported.manifest.validation
    assert sum(shard.num_text_bytes for shard in shards) == sum(len(text.encode()) for text in texts)


def edit_index(directory: Path, change) -> None:
    path = directory / "index.json"
    values = json.loads(path.read_text())
    change(values["shards"][0])
    path.write_text(json.dumps(values))


def without_hashes(shard) -> None:
    for name in ("raw_data", "zip_data"):
        if shard[name]:
            shard[name]["hashes"] = {}


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        (
            "ndarray_int32",
            lambda folder: cut(folder / "shard.00000.mds", 900),
            r"shard.00000.mds: 900 bytes, index.json",
        ),
        ("ndarray_int32", lambda folder: (folder / "shard.00001.mds").unlink(), r"shard.00001.mds: cannot be read"),
        (
            "ndarray_int32",
            lambda folder: overwrite(folder / "shard.00000.mds", 700, b"\xff"),
            r"sha1 .* says .*damaged",
        ),
        ("ndarray_int32", lambda folder: cut(folder / "index.json", 90), r"index.json: not JSON"),
        ("ndarray_int32", lambda folder: (folder / "index.json").write_text("{}"), r"version: Field required"),
        ("ndarray_int32", lambda folder: (folder / "index.json").unlink(), r"an MDS dataset has this file"),
        (
            "ndarray_int32",
            lambda folder: edit_index(folder, lambda shard: shard["raw_data"].update(basename="../secret")),
            r"shards.0.raw_data.basename",
        ),
        (
            "ndarray_zstd",
            lambda folder: edit_index(folder, lambda shard: shard["raw_data"].update(bytes=10)),
            r"more than 10 bytes when decompressed, index.json says 10",
        ),
        (
            "bytes_gz",
            lambda folder: edit_index(folder, lambda shard: shard.update(compression="snappy")),
            r"compressed by 'snappy': this program reads zstd, gz",
        ),
    ],
)
def test_damaged_mds_datasets_are_refused_by_file_and_place(kind, damage, message, mds, tmp_path, tokenizer):
    damage(mds / kind)
    with pytest.raises(DataError, match=message):
        import_dataset(MdsCorpus(mds / kind, "tokens"), tokenizer.path, tmp_path / "new")
    assert not (tmp_path / "new" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("byte", "content", "message"),
    [
        (0, b"\x07", r"byte 0 says 7 samples, index.json says"),
        (8, b"\xff\xff", r"the sample bounds at byte 8 do not rise"),
    ],
)
def test_damage_that_no_checksum_covers_is_found_in_an_mds_shard(byte, content, message, mds, tmp_path, tokenizer):
    folder = mds / "ndarray_int32"
    edit_index(folder, without_hashes)
    overwrite(folder / "shard.00000.mds", byte, content)
    with pytest.raises(DataError, match=message):
        import_dataset(MdsCorpus(folder, "tokens"), tokenizer.path, tmp_path / "new")


def test_a_compressed_shard_that_ends_early_is_refused(mds, tmp_path, tokenizer):
    folder = mds / "ndarray_zstd"
    edit_index(folder, without_hashes)
    edit_index(folder, lambda shard: shard["zip_data"].update(bytes=400))
    cut(folder / "shard.00000.mds.zstd", 400)
    with pytest.raises(DataError, match=r"shard.00000.mds.zstd: (zstd:7 cannot be decompressed|.* when decompressed)"):
        import_dataset(MdsCorpus(folder, "tokens"), tokenizer.path, tmp_path / "new")


def test_columns_that_cannot_be_tokens_are_refused(mds):
    with pytest.raises(DataError, match="no column 'ids', there are source, tokens, weight: give --column"):
        MdsCorpus(mds / "ndarray_int32", "ids")
    with pytest.raises(DataError, match="column 'weight' is encoded as 'int'"):
        MdsCorpus(mds / "ndarray_int32", "weight")
    edit_index(mds / "text", lambda shard: shard.update(column_encodings=["pkl"]))
    with pytest.raises(DataError, match="shard 1 has other columns than shard 0"):
        MdsCorpus(mds / "text", "text")


def test_the_verbs_import_and_answer_in_json(mds, tmp_path, tokenizer):
    write_megatron(tmp_path / "old", made_documents(20))
    for arguments, number in (
        (["megatron", str(tmp_path / "old")], 20),
        (["mds", str(mds / "ndarray_int32"), "--column", "tokens"], 40),
    ):
        output = tmp_path / f"of_{number}"
        result = CliRunner().invoke(
            data_app, ["import", *arguments, "--tokenizer", str(tokenizer.path), "-o", str(output), "--json"]
        )
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)
        assert answer["train_documents"] + answer["validation_documents"] == number
