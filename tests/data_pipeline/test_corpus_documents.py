"""Documents come out of every kind of file unchanged, cut anywhere, and each fault names its place."""

import csv
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import ReadingConfig
from data_pipeline.errors import DataError
from data_pipeline.preparation.documents import DocumentReader
from data_pipeline.preparation.inputs import find_inputs, split_into_pieces

TEXTS = ["first\n  line", "zweite Zeile: ü", "日本\t\r\n", "a\u2028b \u0085", "last " * 50] * 40


def read_all(path, *, piece_bytes=1 << 30, **reading):
    config = ReadingConfig(**reading)
    reader = DocumentReader(config)
    documents = [
        document
        for file in find_inputs([path], config)
        for piece in split_into_pieces(file, piece_bytes)
        for document in reader.read(piece)
    ]
    assert all(document.utf8 == document.text.encode() for document in documents)
    return documents, reader


def texts_of(path, **options):
    return [document.text for document in read_all(path, **options)[0]]


def write_jsonl(path, texts=TEXTS, **json_options):
    path.write_text("".join(json.dumps({"text": text, "n": 1}, **json_options) + "\n" for text in texts), "utf-8")


def write_arrow_stream(path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("text", pa.string())])) as writer:
        writer.write_table(pa.table({"text": TEXTS}), max_chunksize=30)


def write_arrow_file(path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("text", pa.large_string())])) as writer:
        writer.write_table(pa.table({"text": pa.array(TEXTS, pa.large_string())}), max_chunksize=30)


def write_csv(path, texts=TEXTS, **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", **options)
        writer.writerow(["n", "text"])
        writer.writerows([number, text] for number, text in enumerate(texts))


def zstd(content):
    return pa.Codec("zstd").compress(content, asbytes=True)


WRITERS = {
    "a.jsonl": write_jsonl,
    "b.json": lambda path: write_jsonl(path, ensure_ascii=False),
    "array.json": lambda path: path.write_text(json.dumps([{"text": text} for text in TEXTS], indent=2)),
    "c.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode())
    ),
    "d.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps([{"text": text} for text in TEXTS]).encode())),
    "c.jsonl.zst": lambda path: path.write_bytes(
        zstd("".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode())
    ),
    "c.csv": write_csv,
    "c.csv.zst": lambda path: (write_csv(path), path.write_bytes(zstd(path.read_bytes()))),
    "c.tsv": lambda path: write_csv(path, delimiter="\t"),
    "e.parquet": lambda path: pq.write_table(pa.table({"text": TEXTS, "n": range(len(TEXTS))}), path, row_group_size=7),
    "f.arrow": write_arrow_stream,
    "g.arrow": write_arrow_file,
    "saved": lambda path: datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(path), num_shards=3),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("piece_bytes", [1 << 30, 1000])
def test_every_format_gives_the_documents_back(tmp_path, name, piece_bytes):
    WRITERS[name](tmp_path / name)
    documents, _ = read_all(tmp_path / name, piece_bytes=piece_bytes)
    assert [document.text for document in documents] == TEXTS
    (file,) = find_inputs([tmp_path / name], ReadingConfig())
    # The progress ends at the file's end; what the reader holds back or rounds off is less than a few percent.
    assert sum(document.num_source_bytes for document in documents) == pytest.approx(file.num_bytes, rel=0.05)


@given(
    st.lists(st.text(alphabet='ab é\\"\n', max_size=20), min_size=1, max_size=30),
    st.integers(1, 200),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_line_pieces_lose_and_repeat_nothing_wherever_they_are_cut(tmp_path_factory, texts, piece_bytes, ends):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    content = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts) + "\n" * ends
    path.write_text(content, "utf-8")
    assert texts_of(path, piece_bytes=piece_bytes) == texts


def test_a_folder_gives_its_matching_files_in_order_of_name(tmp_path):
    for name in ("b.py", "a/z.py", "a/c.txt", ".hidden/x.py", "a/.y.py", "tests/t.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert texts_of(tmp_path, globs=["**/*.py"], excludes=["tests/*"]) == ["a/z.py", "b.py"]
    assert texts_of(tmp_path, globs=["**/*.py", "**/*.txt"]) == ["a/c.txt", "a/z.py", "b.py", "tests/t.py"]


def test_text_is_one_document_or_one_per_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\n\ntwo ü\nthree".encode())
    assert texts_of(path) == ["one\r\n\ntwo ü\nthree"]
    assert texts_of(path, text_unit="line", piece_bytes=3) == ["one\r", "", "two ü", "three"]


def test_no_file_is_an_empty_corpus(tmp_path):
    with pytest.raises(DataError, match=r"empty corpus: .* 0 files .*\*\*/\*\.rs") as caught:
        find_inputs([tmp_path], ReadingConfig(globs=["**/*.rs"]))
    assert caught.value.exit_code == 78


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file"):
        find_inputs([tmp_path / "nowhere"], ReadingConfig())


def test_a_file_given_twice_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.txt: given twice"):
        find_inputs([tmp_path, tmp_path / "a.txt"], ReadingConfig())


def test_bytes_that_are_not_utf8_are_named_or_skipped_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": "ba\xffd"}\n{"text": "half \\ud800"}\n{"text": "end"}\n')
    with pytest.raises(DataError, match=rf"{path}: not UTF-8 at byte 29 \(0xFF"):
        read_all(path)
    documents, reader = read_all(path, invalid_utf8="skip")
    assert [document.text for document in documents] == ["good", "end"]
    assert reader.num_skipped_invalid_utf8 == 2


def test_half_a_surrogate_pair_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": "half \\ud800"}\n')
    with pytest.raises(DataError, match=r"byte 17: character 5 of the text is half a surrogate"):
        read_all(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', r"byte 14: not JSON at character 13 of the line"),
        ('{"body": "x", "id": 1}', r"byte 14: no field `text` \(fields: body, id\).*--text-field"),
        ('{"text": null}', r"byte 14: field `text` holds NoneType, needs text"),
        ('["text"]', r"byte 14: holds list"),
    ],
)
def test_faulty_json_lines_name_their_byte(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text":"ok"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_all(tmp_path / "a.jsonl")


def test_tables_without_the_column_or_with_null_are_named(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column `text` \(columns: body, n\)"):
        read_all(tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet", text_field="body") == ["x"]
    pq.write_table(pa.table({"text": ["x", "y", None]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 2: column `text` holds None, needs text"):
        read_all(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    "name", ["c.jsonl.gz", "d.json.gz", "c.jsonl.zst", "c.csv.zst", "e.parquet", "f.arrow", "g.arrow"]
)
def test_cut_off_files_are_errors_that_name_the_file(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    path.write_bytes(path.read_bytes()[: -min(200, path.stat().st_size // 2)])
    with pytest.raises(DataError, match=name):
        read_all(path)


def test_a_saved_dataset_with_splits_asks_for_one(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["x"]})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="splits test, train: give one"):
        find_inputs([tmp_path / "saved"], ReadingConfig())
    assert texts_of(tmp_path / "saved" / "train") == ["x"]


def test_compressed_data_that_is_none_is_named(tmp_path):
    for name, codec in (("a.txt.gz", "gzip"), ("b.txt.zst", "zstd")):
        (tmp_path / name).write_bytes(b"plain text, after all")
        with pytest.raises(DataError, match=rf"{name}: damaged or cut off, as {codec} data"):
            read_all(tmp_path / name)


def test_faulty_separated_values_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,body\n1,"ok"\n2,"a ""quote"", and\na line"\n3,\n')
    with pytest.raises(DataError, match=r"a\.csv: no column `text` \(columns: id, body\): .*--text-field"):
        read_all(path)
    assert texts_of(path, text_field="body") == ["ok", 'a "quote", and\na line', ""]
    path.write_bytes(b"id,text\n1,good\n2,b\xffd\n3,end\n")
    with pytest.raises(DataError, match=r"a\.csv: row 2: not UTF-8 at byte 1 \(0xFF"):
        read_all(path)
    assert texts_of(path, invalid_utf8="skip") == ["good", "end"]
    path.write_bytes(b"id,text\n1,good\n2\n")
    with pytest.raises(DataError, match=r"a\.csv: .*Row #3: Expected 2 columns, got 1"):
        read_all(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty corpus"):
        read_all(path)


def test_a_row_longer_than_the_reader_takes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.preparation.tables._CSV_BLOCK_BYTES", 4096)
    write_csv(tmp_path / "a.csv", ["short", "long " * 4000, "end"])
    with pytest.raises(DataError, match=r"a\.csv: .* one row has at most 4096 bytes"):
        read_all(tmp_path / "a.csv")
    write_csv(tmp_path / "b.csv", TEXTS)
    assert texts_of(tmp_path / "b.csv") == TEXTS
