"""The verbs do what they say, answer in JSON where asked, and start fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipeline.cli import data_app, tokenizer_app
from data_pipeline.config import ConfigError
from data_pipeline.errors import DataError

ROOT = Path(__file__).parents[2]
VERBS = [(tokenizer_app, "train"), (tokenizer_app, "inspect")] + [
    (data_app, verb) for verb in ("prepare", "verify", "inspect")
]


def answer(app, *arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def failure(app, *arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments]).exception


@pytest.mark.parametrize(("app", "verb"), VERBS)
def test_each_verb_has_help_with_an_example(app, verb):
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Example: llama-dist" in result.output


def test_text_becomes_a_verified_dataset(corpus, tmp_path):
    trained = answer(
        tokenizer_app, "train", corpus, "--glob", "**/*.py", "--vocabulary-size", 400, "-o", tmp_path, "--json"
    )
    assert trained["vocabulary_size"] == 400
    shown = answer(tokenizer_app, "inspect", trained["path"], "--text", "if  x:\n\ty", "--json")
    assert shown["round_trip"]
    assert "".join(shown["pieces"]) == "if  x:\n\ty"
    prepare = ("prepare", corpus, "--tokenizer", trained["path"], "-o", tmp_path / "d", "--workers", 1, "--json")
    prepared = answer(data_app, *prepare, "--validation-fraction", 0.2)
    assert prepared["train_documents"] + prepared["validation_documents"] == 60
    assert not prepared["already_complete"]
    assert answer(data_app, *prepare, "--validation-fraction", 0.2)["already_complete"]
    verified = answer(data_app, "verify", tmp_path / "d", "--json")
    assert verified["tokens"] == prepared["train_tokens"] + prepared["validation_tokens"]
    inspected = answer(data_app, "inspect", tmp_path / "d", "--split", "validation", "--json")
    assert inspected["tokens"] == prepared["validation_tokens"]
    assert 0 < inspected["unigram_entropy_nats"] < 6
    assert len(inspected["samples"]) == 3
    assert isinstance(failure(data_app, *prepare), DataError)


def test_answers_are_readable_without_json(built_dataset):
    result = CliRunner().invoke(data_app, ["verify", str(built_dataset)])
    assert "whole" in result.stdout
    assert "fingerprint" in result.stdout


def test_faults_reach_the_process_edge_as_reported_errors(corpus, tmp_path):
    missing = failure(data_app, "verify", tmp_path / "none")
    assert isinstance(missing, DataError)
    assert "manifest.json is missing" in str(missing)
    wrong = failure(
        data_app, "prepare", corpus, "--tokenizer", "t.model", "-o", tmp_path / "d", "--invalid-utf8", "ignore"
    )
    assert isinstance(wrong, ConfigError)
    assert "reading.invalid_utf8: Input should be 'error' or 'skip' (got 'ignore')" in str(wrong)
    assert CliRunner().invoke(data_app, ["inspect", "x", "--split", "test"]).exit_code == 2


def test_the_command_line_imports_nothing_heavy():
    program = (
        "import sys, data_pipeline.cli\n"
        "print([name for name in ('numpy', 'pyarrow', 'datasets', 'sentencepiece', 'torch', 'pydantic')"
        " if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_stream_imports_no_torch():
    program = "import sys, data_pipeline.stream, data_pipeline.preparation; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
