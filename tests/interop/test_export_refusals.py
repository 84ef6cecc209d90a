"""Checkpoints whose manifest is sealed but speaks of another model than its config: neither exported nor used."""

import dataclasses
import math

import pytest
import typer
from typer.testing import CliRunner

from llama_dist.checkpoint.manifest import CheckpointError, read_manifest
from llama_dist.cli import register
from llama_dist.generation.command import Request, answer, load_model
from llama_dist.generation.errors import GenerationError
from llama_dist.generation.sample import Sampling
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.hf_export import Export, export_to_hf
from llama_dist.interop.hf_import import import_from_hf


@pytest.fixture
def checkpoint(folder, run_config):
    return import_from_hf(folder, run_config(), "test")


def reseal(checkpoint, change):
    manifest = read_manifest(checkpoint)
    (checkpoint / "manifest.json").write_text(change(manifest).to_json())


def without_a_tensor(manifest):
    tensors = {name: record for name, record in manifest.tensors.items() if name != "head.weight"}
    return dataclasses.replace(manifest, tensors=tensors)


def with_fewer_layers(manifest):
    config = manifest.config | {"model": manifest.config["model"] | {"num_layers": 1}}
    return dataclasses.replace(manifest, config=config)


def with_a_transposed_shape(manifest):
    record = dataclasses.replace(manifest.tensors["head.weight"], shape=(16, 96))
    return dataclasses.replace(manifest, tensors=manifest.tensors | {"head.weight": record})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_a_tensor, r"head\.weight: the model has it, the checkpoint does not"),
        (with_fewer_layers, r"layers\.1\.\S+: the checkpoint has it, the model does not"),
        (with_a_transposed_shape, r"head\.weight: the model has shape \(96, 16\), the checkpoint \(16, 96\)"),
    ],
)
def test_a_model_that_is_not_the_configs_is_neither_exported_nor_used(checkpoint, tmp_path, change, told):
    reseal(checkpoint, change)
    with pytest.raises(CheckpointError, match=told):
        export_to_hf(Export(checkpoint, tmp_path / "hf", with_tokenizer=False))
    assert not (tmp_path / "hf").exists()
    with pytest.raises(CheckpointError, match=told):
        load_model(checkpoint)


def test_a_tokenizer_that_the_manifest_does_not_name_is_not_used(checkpoint, tmp_path):
    (checkpoint / "tokenizer.model").write_bytes(b"put there")
    with pytest.raises(ExchangeError, match="the checkpoint holds no tokenizer"):
        export_to_hf(Export(checkpoint, tmp_path / "hf"))
    with pytest.raises(GenerationError, match="the checkpoint holds no tokenizer: name the run's own"):
        answer(Request(checkpoint, "x", 1, Sampling(), 0))


@pytest.mark.parametrize("size", ["inf", "nan"])
def test_a_file_size_that_is_no_number_is_a_wrong_use(checkpoint, tmp_path, size):
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(
        app, ["checkpoint", "export", str(checkpoint), str(tmp_path / "hf"), "--max-file-gb", size]
    )
    assert result.exit_code == 2 and "--max-file-gb" in result.output


def test_files_of_any_size_are_one_file(checkpoint, tmp_path):
    exported = export_to_hf(Export(checkpoint, tmp_path / "hf", with_tokenizer=False, max_file_gb=math.inf))
    assert len(list(exported.glob("*.safetensors"))) == 1
