"""`data show` names the documents that a step really reads."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.packing.pack_dataset import pack_split
from data_pipeline.preparation.task import split_of
from data_pipeline.step_documents import Replica, show_step
from data_pipeline.stream import open_stream
from data_pipeline.tokenizer import Tokenizer
from launcher.cli import app


@pytest.fixture(params=["concat", "best_fit"])
def run_file(request, dataset, tmp_path):
    pack_split(dataset, "train", 64)
    values = {
        "data": {
            "sources": [{"path": str(dataset), "name": "code"}],
            "sequence_length_tokens": 64,
            "packing": request.param,
            "skip_samples": [{"first": 3, "last": 4}],
        },
        "batch": {"global_batch_sequences": 12, "micro_batch_sequences": 2},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    return path


def test_the_shown_parts_are_the_tokens_of_the_step(run_file, dataset):
    values = json.loads(run_file.read_text())["data"]
    batch = open_stream(DataConfig.model_validate(values)).read(np.arange(12, 24))
    tokenizer = Tokenizer.load(dataset / "tokenizer.model")
    samples = show_step(run_file.parent, 2)
    assert [sample.sequence for sample in samples] == batch.sample_ids.tolist()
    # Two samples were skipped before this step.
    assert [sample.sample for sample in samples] == list(range(14, 26))
    for sample, tokens in zip(samples, batch.tokens, strict=True):
        column = 0
        for part in sample.parts:
            count = part.end_token - part.first_token
            assert 0 < count <= part.document_tokens
            assert tokenizer.decode(tokens[column : column + count].tolist()).startswith(part.text)
            assert split_of(bytes.fromhex(part.doc_id), 0.15) == "train"
            assert (dataset / part.shard).exists()
            column += count
        assert column <= 64


def test_the_rows_of_all_ranks_are_the_step(run_file):
    whole = [sample.sample for sample in show_step(run_file, 1)]
    parts = [[sample.sample for sample in show_step(run_file, 1, replica=Replica(rank, 3))] for rank in range(3)]
    assert sorted(number for part in parts for number in part) == whole
    assert parts[1][:2] == whole[2:4]
    with pytest.raises(DataError, match="not a multiple of 10"):
        show_step(run_file, 1, replica=Replica(0, 5))


def test_the_verb_prints_lines_and_json(run_file):
    arguments = ["data", "show", str(run_file), "--step", "1", "--rank", "1", "--dp-size", "2"]
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert len(told["samples"]) == 6
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert lines[0].startswith(f"sample {told['samples'][0]['sample']}  code  epoch 0")
    assert told["samples"][0]["parts"][0]["doc_id"] in lines[1]


def test_a_run_directory_is_shown_by_its_newest_attempt(run_file):
    changed = json.loads(run_file.read_text())
    changed["data"]["skip_samples"] = []
    for number, values in (("0009", json.loads(run_file.read_text())), ("0010", changed)):
        (run_file.parent / "attempts" / number).mkdir(parents=True)
        (run_file.parent / "attempts" / number / "config.yaml").write_text(json.dumps(values))
    assert [sample.sample for sample in show_step(run_file.parent, 2)] == list(range(12, 24))
