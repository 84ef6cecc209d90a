"""What an import leaves in the run's directory, and what it refuses without a trace. No ranks, no transformers."""

import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.config import RunDirectory
from llama_dist.config.run_life import is_life, read_life, read_saved
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.hf_import import import_from_hf


def run_of(config):
    return RunDirectory(Path(config.runs_directory) / config.name)


def test_an_import_writes_down_that_the_run_has_a_checkpoint(folder, run_config):
    run = run_of(run_config())
    assert import_from_hf(folder, run_config(), "test").name == "step_00000000"
    assert read_saved(run).step == 0 and is_life(read_life(run))


def pipe_beside_the_weights(folder):
    os.mkfifo(folder / "more.safetensors")


def directory_beside_the_weights(folder):
    (folder / "more.safetensors").mkdir()


def pipe_as_config(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def nested_config(folder):
    (folder / "config.json").write_text("[" * 100_000)


def weight_of_integers(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int64)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (pipe_beside_the_weights, r"more\.safetensors: is no regular file"),
        (directory_beside_the_weights, r"more\.safetensors: is no regular file"),
        (pipe_as_config, r"config\.json: is no regular file"),
        (nested_config, r"config\.json: is not JSON"),
        (weight_of_integers, r"lm_head\.weight is I64: needs F32"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_and_leaves_nothing(folder, run_config, spoil, told):
    spoil(folder)
    with pytest.raises(ExchangeError, match=told):
        import_from_hf(folder, run_config(), "test")
    assert not Path(run_config().runs_directory).exists()


def test_a_disk_that_refuses_an_import_is_told_and_no_empty_directory_stays(folder, run_config):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            import_from_hf(folder, run_config(), "test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(run_of(run_config()).path.iterdir()) == []
