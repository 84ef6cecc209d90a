"""`data prepare` keeps every text that is one, whatever its characters or its length, and names or counts the rest."""

import json

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from data_pipeline.cli import data_app
from data_pipeline.errors import DataError

AWKWARD = {
    "a NUL": "before\0after\0\0",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 end",
    "right to left": "שלום \u202e עולם، مرحبا \u202c.",
    "the word mark": "▁a ▁▁ b▁",
    "line ends": "\r\n\r\u2028\u2029\x85\x0b\x0c",
    "spaces": "  \t  ",
    "a byte order mark": "\ufeffx\ufeff",
    "the end of Unicode": "\U0010ffff\uffff\ufffd",
    "combining": "e\u0301 \u0303" + "\u0300" * 50,
    "special names": "<s></s><unk>",
}


def prepare(path, tokenizer, output, *options):
    arguments = ["prepare", path, "--tokenizer", tokenizer.path, "-o", output, "--workers", 1, "--json", *options]
    return CliRunner().invoke(data_app, [*map(str, arguments), "--validation-fraction", "0"])


def stored_texts(output, tokenizer):
    texts = []
    for path in sorted((output / "shards").iterdir()):
        with pa.OSFile(str(path)) as file:
            for row in pa.ipc.open_file(file).read_all().column("tokens").to_pylist():
                assert row[-1] == tokenizer.eos_id
                texts.append(tokenizer.decode(row[:-1]))
    return texts


def test_texts_of_awkward_characters_come_out_as_they_went_in(tokenizer, tmp_path):
    lines = [json.dumps({"text": text}, ensure_ascii=number % 2) for number, text in enumerate(AWKWARD.values())]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8", newline="")
    result = prepare(tmp_path / "a.jsonl", tokenizer, tmp_path / "d")
    assert result.exit_code == 0, result.exception
    assert dict(zip(AWKWARD, stored_texts(tmp_path / "d", tokenizer), strict=True)) == AWKWARD


def test_ten_megabytes_in_one_line_are_one_document(tokenizer, tmp_path):
    line = "".join(f"word{number % 97} é{number}; " for number in range(620_000))
    assert len(line.encode()) > 10_000_000
    (tmp_path / "a.txt").write_text(f"first\n{line}\nlast", "utf-8")
    # Tasks of a megabyte: the line is cut by none of the bounds that lie in it.
    result = prepare(tmp_path / "a.txt", tokenizer, tmp_path / "d", "--text-unit", "line", "--task-megabytes", "1")
    assert result.exit_code == 0, result.exception
    assert stored_texts(tmp_path / "d", tokenizer) == ["first", line, "last"]


def test_documents_without_text_are_left_out_and_counted(tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": "x"}\n\n{"text": ""}\n')
    (tmp_path / "b.csv").write_text('text,n\n"",1\ny,2\n')
    (tmp_path / "c.txt").write_bytes(b"")
    result = prepare(tmp_path, tokenizer, tmp_path.parent / f"{tmp_path.name}-dataset")
    assert result.exit_code == 0, result.exception
    answer = json.loads(result.stdout)
    assert (answer["train_documents"], answer["skipped_empty"]) == (2, 4)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        (
            "a.jsonl",
            b'{"text": "ok"}\n{"text": "half \\ud83d"}\n',
            "byte 15: character 5 of the text is half a surrogate",
        ),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "ba\xe9d"}\n', "not UTF-8 at byte 27 (0xE9"),
        (
            "a.json",
            b'[{"text": "ok"}, {"text": "\\ude00 low"}]',
            "element 1: character 0 of the text is half a surrogate",
        ),
        ("a.csv", b"text,n\nok,1\nba\xe9d,2\n", "row 2: not UTF-8 at byte 2 (0xE9"),
        ("a.txt", b"ok\nba\xe9d\n", "not UTF-8 at byte 5 (0xE9"),
    ],
)
def test_text_that_is_not_unicode_is_named_with_its_place_or_skipped_and_counted(
    tokenizer, tmp_path, name, content, place
):
    (tmp_path / name).write_bytes(content)
    refused = prepare(tmp_path / name, tokenizer, tmp_path / "refused", "--text-unit", "line")
    assert isinstance(refused.exception, DataError)
    assert f"{tmp_path / name}: {place}" in str(refused.exception)
    assert "--invalid-utf8 skip" in str(refused.exception)
    assert not (tmp_path / "refused" / "manifest.json").exists()
    taken = prepare(tmp_path / name, tokenizer, tmp_path / "d", "--text-unit", "line", "--invalid-utf8", "skip")
    assert taken.exit_code == 0, taken.exception
    assert json.loads(taken.stdout)["skipped_invalid_utf8"] == 1
    assert stored_texts(tmp_path / "d", tokenizer) == ["ok"]
