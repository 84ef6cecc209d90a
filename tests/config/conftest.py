"""A run's plain values, which each test changes in one place."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import write_yaml
from llama_dist.config import RunConfig, parse_run_config

MODEL = {
    "vocabulary_size": 300,
    "hidden_size": 16,
    "num_layers": 4,
    "num_heads": 2,
    "feed_forward_size": 32,
    "max_sequence_length_tokens": 64,
}
RUN: dict[str, Any] = {
    "name": "tiny",
    "model": MODEL,
    "data": {"sources": [{"path": "data/one"}, {"path": "data/two", "weight": 2.0}], "sequence_length_tokens": 64},
    "batch": {"global_batch_sequences": 8, "micro_batch_sequences": 2},
    "train": {"num_steps": 100},
}


@pytest.fixture
def run_values() -> dict[str, Any]:
    """Return values that make a good run; the caller may change them."""
    return deepcopy(RUN)


@pytest.fixture
def make_run(run_values: dict[str, Any]) -> Callable[..., RunConfig]:
    """Return a builder that sets fields by their path, as in `make_run(**{"batch.global_batch_sequences": 6})`."""

    def build(**changes: Any) -> RunConfig:
        values = deepcopy(run_values)
        for path, value in changes.items():
            *parents, last = path.split(".")
            target = values
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = value
        return parse_run_config(values, where="test")

    return build


@pytest.fixture
def run_file(tmp_path: Path, run_values: dict[str, Any]) -> Path:
    """Return a run file whose model is a file beside it."""
    write_yaml(tmp_path / "model.yaml", run_values["model"])
    path = tmp_path / "run.yaml"
    write_yaml(path, run_values | {"model": "model.yaml"})
    return path
