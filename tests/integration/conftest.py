"""A small real corpus, prepared once, and the command line as a user types it."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

CORPUS = [str(Path(sysconfig.get_paths()["stdlib"]) / package) for package in ("asyncio", "json", "http")]
VOCABULARY = 512


@pytest.fixture(scope="session")
def llama_dist():
    """Run one verb in a process of its own; answers the finished process. `directory` is where it runs."""

    def run(*arguments, directory=None, timeout_seconds=240, env=None):
        return subprocess.run(
            [sys.executable, "-m", "launcher", *map(str, arguments)],
            check=False,
            cwd=directory,
            env=env,
            timeout=timeout_seconds,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def corpus(llama_dist, tmp_path_factory):
    """Directory with `tokenizer.model` and the prepared dataset `data`."""
    directory = tmp_path_factory.mktemp("corpus")
    only_python = ("--glob", "**/*.py")
    trained = llama_dist(
        "tokenizer", "train", *CORPUS, *only_python, "--vocabulary-size", VOCABULARY,
        "--output", directory / "tokenizer.model",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    prepared = llama_dist(
        "data", "prepare", *CORPUS, *only_python, "--tokenizer", directory / "tokenizer.model",
        "--output", directory / "data", "--validation-fraction", "0.1",
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    return directory


@pytest.fixture
def write_run(corpus, tmp_path):
    """Write a run file over the corpus; keyword arguments replace whole sections."""

    def write(name="small", **sections):
        values = {
            "name": name,
            "runs_directory": str(tmp_path / "runs"),
            "model": {
                "vocabulary_size": VOCABULARY,
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 2,
                "feed_forward_size": 64,
                "max_sequence_length_tokens": 64,
            },
            "data": {"sources": [{"path": str(corpus / "data")}], "sequence_length_tokens": 64},
            "batch": {"global_batch_sequences": 8, "micro_batch_sequences": 2},
            "train": {"num_steps": 60, "precision": "fp32"},
            "checkpoint": {"interval_steps": 7},
            "supervision": {"process_group_timeout_seconds": 60.0, "first_backoff_seconds": 0.1},
            "metrics": {"mlflow": False},
        } | sections
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write
