"""A small LLaMA in a folder, as `save_pretrained` leaves it, and the config of a run with its model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llama_dist.config import RunConfig, parse_run_config
from llama_dist.interop.hf_config import hf_config
from llama_dist.interop.hf_names import to_hf
from llama_dist.model.shapes import shapes_of

MODEL = {
    "vocabulary_size": 96,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_size": 32,
    "max_sequence_length_tokens": 32,
}


@pytest.fixture
def run_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Make the config of the run `continued`, with these of its `checkpoint` fields."""

    def make(**checkpoint: object) -> RunConfig:
        values = {
            "name": "continued",
            "runs_directory": str(tmp_path / "runs"),
            "model": MODEL,
            "data": {"sources": [{"path": str(tmp_path / "data")}], "sequence_length_tokens": 32},
            "batch": {"global_batch_sequences": 8},
            "train": {"num_steps": 4, "precision": "fp32"},
            "checkpoint": checkpoint,
        }
        return parse_run_config(values, where="test")

    return make


@pytest.fixture
def folder(tmp_path: Path, run_config: Callable[..., RunConfig]) -> Path:
    """A folder that can be imported."""
    model = run_config().model
    path = tmp_path / "theirs"
    path.mkdir()
    tensors = {str(to_hf(name)): torch.full(shape, 0.5) for name, shape in shapes_of(model).items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(hf_config(model, dtype="float32", bos_id=None, eos_id=None)))
    return path
