"""`llama-dist generate` on a real checkpoint: finds it, continues it, and tells what it cannot use."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from data_pipeline.config import ReportedError, TokenizerTrainingConfig
from data_pipeline.tokenizer_training import train_tokenizer
from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.cli import register
from llama_dist.generation.command import encode_prompt
from llama_dist.generation.errors import GenerationError


def run_generate(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    if isinstance(result.exception, ReportedError):
        raise result.exception  # the program's edge prints it
    assert result.exception is None, result.output
    return result


def test_a_run_directory_means_its_newest_good_checkpoint(learned_run: Any) -> None:
    result = run_generate(learned_run.directory.path, "--prompt", "def add", "--temperature", 0)
    assert result.output == learned_run.text + "\n"


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/step_00000150"])
def test_checkpoint_can_be_named_in_each_way(learned_run: Any, place: str) -> None:
    result = run_generate(learned_run.directory.path / place, "--prompt", "def", "--temperature", 0, "--json")
    answer = json.loads(result.output)
    assert answer["step"] == 150
    assert answer["prompt"] + answer["text"] == learned_run.text
    assert answer["checkpoint"].endswith("step_00000150")


def test_an_older_checkpoint_is_used_when_named(learned_run: Any) -> None:
    older = learned_run.directory.checkpoints / "step_00000001"
    answer = json.loads(run_generate(older, "--prompt", "def add", "--temperature", 0, "--json").output)
    assert answer["step"] == 1
    assert answer["prompt"] + answer["text"] != learned_run.text


def test_logprobs_prints_each_token_with_its_log_probability_in_nats(learned_run: Any) -> None:
    arguments = (learned_run.directory.path, "--prompt", "def add", "--temperature", 0, "--max-new-tokens", 4)
    answer = json.loads(run_generate(*arguments, "--json").output)
    lines = run_generate(*arguments, "--logprobs").output.splitlines()[-4:]
    printed = [line.split(maxsplit=1) for line in lines]
    assert [json.loads(text) for _, text in printed] == [token["text"] for token in answer["tokens"]]
    for (number, _), token in zip(printed, answer["tokens"], strict=True):
        assert float(number) == pytest.approx(token["log_probability_nats"], abs=1e-4)
        assert token["log_probability_nats"] <= 0
    assert "".join(token["text"] for token in answer["tokens"]) == answer["text"]


def test_the_seed_decides_a_sampled_text(learned_run: Any) -> None:
    texts = [
        run_generate(learned_run.directory.path, "--prompt", "d", "--temperature", 3, "--seed", seed).output
        for seed in (4, 4, 5)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_an_empty_prompt_starts_after_the_end_of_a_document(learned_run: Any) -> None:
    assert encode_prompt(learned_run.tokenizer, "") == [learned_run.tokenizer.eos_id]
    assert run_generate(learned_run.directory.path, "--max-new-tokens", 3).output


def test_a_prompt_that_is_not_utf8_is_refused_with_its_place(learned_run: Any) -> None:
    with pytest.raises(GenerationError, match="not UTF-8 at character 1"):
        encode_prompt(learned_run.tokenizer, "d\udcff")


def test_a_prompt_that_is_too_long_is_refused(learned_run: Any) -> None:
    with pytest.raises(GenerationError, match="the model's longest sequence 80"):
        run_generate(learned_run.directory.path, "--prompt", "x, " * 80)


@pytest.mark.parametrize("made", [False, True])
def test_a_place_without_a_checkpoint_is_told(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(GenerationError, match=r"run: no checkpoint: needs a directory that holds manifest\.json"):
        run_generate(tmp_path / "run", "--prompt", "x")


def test_a_flipped_byte_is_refused_by_name_and_passed_over_in_a_run(learned_run: Any, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(learned_run.directory.path, copy, symlinks=True)
    newest = copy / "checkpoints" / "step_00000150"
    weights = newest / "rank_00000.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank_00000\.safetensors: checksum"):
        run_generate(newest, "--prompt", "def")
    assert json.loads(run_generate(copy, "--prompt", "def", "--json").output)["step"] == 1


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(learned_run: Any, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(" ".join(f"{number:b}".translate({48: "ab"[number % 2], 49: "cd"}) for number in range(4000)))
    larger = train_tokenizer([corpus], tmp_path / "larger", TokenizerTrainingConfig(vocabulary_size=400)).tokenizer
    with pytest.raises(GenerationError, match="400 tokens, the model has 320"):
        run_generate(learned_run.directory.path, "--prompt", "def", "--tokenizer", larger.path)


def test_help_shows_an_example_and_needs_no_torch() -> None:
    program = (
        "import sys, typer, llama_dist.cli as cli; app = typer.Typer(); cli.register(app);\n"
        "try: app(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pyarrow', 'deepspeed')))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Example: llama-dist generate" in done.stdout
