"""Builders of step records and run directories that the metrics tests share."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from data_pipeline.config import write_yaml
from llama_dist.config import RunDirectory, dump_config, parse_run_config
from llama_dist.metrics import StepMetrics


@pytest.fixture
def make_step() -> Callable[..., StepMetrics]:
    """Return a builder of plausible steps; every value depends on the step."""

    def build(step: int, **changes: object) -> StepMetrics:
        values: dict[str, object] = {
            "step": step,
            "tokens_seen": step * 1024,
            "loss": 8.0 / step + 1.0,
            "learning_rate": 1e-3 * step,
            "gradient_norm": 1.0 + step / 10,
            "tokens_per_second": 2000.0 + step,
            "step_seconds": 0.5,
            "memory_gib": 1.25,
            "held_out_loss": 7.5 if step % 5 == 0 else None,
            "named_held_out_losses": {"code": 6.5} if step % 5 == 0 else {},
        }
        return StepMetrics(**(values | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def build_run_directory() -> Callable[[Path], RunDirectory]:
    """Return a builder of run directories as the launcher leaves them at the start of the first attempt."""

    def build(path: Path) -> RunDirectory:
        directory = RunDirectory(path)
        values = dump_config(parse_run_config(RUN_VALUES, where="test"))
        directory.attempt(1).mkdir(parents=True)
        directory.metrics.mkdir()
        write_yaml(directory.config, values)
        write_yaml(directory.attempt_config(1), values)
        return directory

    return build


@pytest.fixture
def run_directory(tmp_path: Path, build_run_directory: Callable[[Path], RunDirectory]) -> RunDirectory:
    """Return a run directory of its own."""
    return build_run_directory(tmp_path / "runs" / "tiny")


@pytest.fixture
def set_state(run_directory: RunDirectory) -> Callable[..., None]:
    """Return a function that writes supervisor.json as this process's supervisor would."""

    def write(state: str, **changes: object) -> None:
        process = psutil.Process()
        values = {
            "pid": process.pid,
            "create_time": process.create_time(),
            "host": socket.gethostname(),
            "attempt": 1,
            "state": state,
        }
        run_directory.supervisor.write_text(json.dumps(values | changes))

    return write


RUN_VALUES = {
    "name": "tiny",
    "model": {
        "vocabulary_size": 300,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "feed_forward_size": 32,
        "max_sequence_length_tokens": 16,
    },
    "data": {"sources": [{"path": "data/one"}, {"path": "data/two", "weight": 2.0}], "sequence_length_tokens": 16},
    "batch": {"global_batch_sequences": 4},
    "train": {"num_steps": 10},
}
