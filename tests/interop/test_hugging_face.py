"""Checkpoints of real engines to Hugging Face's LLaMA and back: the same logits, the same bits, the same token ids."""

import json
import os
import pickle
import resource
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data_pipeline.config import TokenizerTrainingConfig
from data_pipeline.tokenizer_training import train_tokenizer
from llama_dist.checkpoint.load import find_newest_good, load_weights
from llama_dist.checkpoint.manifest import CheckpointError, read_manifest
from llama_dist.config import load_run_config
from llama_dist.generation.command import load_model
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.hf_export import Export, export_to_hf
from llama_dist.interop.hf_import import import_from_hf

LOGITS_TOLERANCE = 1e-4
JOBS = [
    ("zero3", {"zero": 3, "pp": 1, "steps": [0, 2]}),
    ("pipeline", {"zero": 1, "pp": 2, "steps": [0, 2], "tied": True}),
]


@pytest.fixture(scope="module")
def checkpoints(run_ranks, tmp_path_factory):
    """Checkpoints that ZeRO-3 over two ranks, and a pipeline of two with tied embeddings, have written."""
    root = tmp_path_factory.mktemp("written")
    for name, job in JOBS:
        run_ranks("engine_jobs.py", 2, {name: {**job, "save": str(root / name)}})
    return {name: find_newest_good(root / name) for name, _ in JOBS}


@pytest.fixture
def run_file(tmp_path):
    """Write the run file of a checkpoint's model."""

    def write(model, name="continued"):
        values = {
            "name": name,
            "runs_directory": str(tmp_path / "runs"),
            "model": model,
            "data": {"sources": [{"path": str(tmp_path / "data")}], "sequence_length_tokens": 32},
            "batch": {"global_batch_sequences": 8},
            "train": {"num_steps": 4, "precision": "fp32"},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@torch.no_grad()
def logits_distance(ours, theirs):
    tokens = torch.randint(0, 96, (2, 32), generator=torch.Generator().manual_seed(1))
    return float((ours(tokens) - theirs(tokens).logits).abs().max())


@pytest.mark.parametrize("name", [name for name, _ in JOBS])
def test_an_export_has_our_logits_and_comes_back_bit_for_bit(checkpoints, run_file, tmp_path, name):
    checkpoint = checkpoints[name]
    exported = export_to_hf(Export(checkpoint, tmp_path / "hf", with_tokenizer=False, max_file_gb=1e-5))
    assert len(list(exported.glob("*.safetensors"))) > 3, "cut into files"
    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    ours, _ = load_model(checkpoint)
    assert logits_distance(ours, theirs) < LOGITS_TOLERANCE

    config = load_run_config(run_file(read_manifest(checkpoint).config["model"]))
    imported = import_from_hf(exported, config, "test")
    manifest, weights = load_weights(imported)
    assert (manifest.step, manifest.kind, manifest.states) == (0, "imported", ("fp32",))
    _, before = load_weights(checkpoint)
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[key], before[key]) for key in before)


def test_a_model_of_transformers_comes_in_with_its_logits_and_goes_out_as_it_was(run_file, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6, initializer_range=0.3,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model = {
        "vocabulary_size": 96, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention": "grouped_query",
        "num_kv_heads": 2, "feed_forward_size": 64, "max_sequence_length_tokens": 64, "norm_epsilon": 1e-6,
    }  # fmt: skip
    imported = import_from_hf(tmp_path / "theirs", load_run_config(run_file(model)), "test")
    ours, step = load_model(imported)
    assert step == 0 and logits_distance(ours, theirs) < LOGITS_TOLERANCE
    exported = export_to_hf(Export(imported, tmp_path / "again", with_tokenizer=False))
    again = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    before = theirs.state_dict()
    assert all(torch.equal(weight, before[key]) for key, weight in again.state_dict().items())


def test_an_export_in_bf16_rounds_each_weight_once(checkpoints, tmp_path):
    exported = export_to_hf(Export(checkpoints["zero3"], tmp_path / "hf", "bf16", with_tokenizer=False))
    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype="auto").state_dict()
    _, ours = load_weights(checkpoints["zero3"])
    assert torch.equal(theirs["model.embed_tokens.weight"], ours["embed.weight"].to(torch.bfloat16))


SAMPLES = [
    "def main():\n\treturn  {'a': 1}\r\n",
    "    indented\n\n\n  twice",
    "naïve café, 北京 and 😀🇩🇪, مرحبا",
    "<s> is text </s>, and so is <unk>",
    "0123456789 3.14159",
    "\x00\x7f",
    "",
    " ",
]


def test_the_exported_tokenizer_gives_our_ids_on_code_and_on_awkward_text(checkpoints, tmp_path):
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted([*(library / "json").glob("*.py"), *(library / "http").glob("*.py")])
    config = TokenizerTrainingConfig(vocabulary_size=700)
    tokenizer = train_tokenizer(files, tmp_path / "tokenizer.model", config).tokenizer
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["zero3"], checkpoint)
    replace_tokenizer(checkpoint, (tmp_path / "tokenizer.model").read_bytes())
    exported = export_to_hf(Export(checkpoint, tmp_path / "hf"))
    theirs = AutoTokenizer.from_pretrained(exported)
    texts = SAMPLES + [path.read_text() for path in files]
    for text in texts:
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids, text[:80]
        assert theirs.decode(ids) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)


def replace_tokenizer(checkpoint, content):
    """Another tokenizer in a copy of a checkpoint, with a manifest that says so."""
    import dataclasses

    import xxhash

    manifest = read_manifest(checkpoint)
    files = [
        dataclasses.replace(one, num_bytes=len(content), checksum=xxhash.xxh3_128(content).hexdigest())
        if one.name == "tokenizer.model"
        else one
        for one in manifest.files
    ]
    (checkpoint / "tokenizer.model").write_bytes(content)
    (checkpoint / "manifest.json").write_text(dataclasses.replace(manifest, files=tuple(files)).to_json())


class Bomb:
    """Writes a file if anything unpickles it."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def test_pickles_are_refused_by_name_and_never_executed(checkpoints, run_file, tmp_path):
    config = load_run_config(run_file(read_manifest(checkpoints["zero3"]).config["model"]))
    exported = export_to_hf(Export(checkpoints["zero3"], tmp_path / "hf", with_tokenizer=False))
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    (file,) = exported.glob("*.safetensors")
    file.write_bytes(bomb)
    with pytest.raises(CheckpointError, match=file.name):
        import_from_hf(exported, config, "test")
    file.unlink()
    (exported / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(ExchangeError, match=r"pytorch_model.bin is a pickle"):
        import_from_hf(exported, config, "test")
    (exported / "config.json").write_bytes(bomb)
    with pytest.raises(ExchangeError, match=r"config.json"):
        import_from_hf(exported, config, "test")
    assert not canary.exists() and not (tmp_path / "runs").exists()


def test_what_does_not_fit_is_told_with_both_sides_and_nothing_is_written(checkpoints, run_file, tmp_path):
    model = read_manifest(checkpoints["zero3"]).config["model"]
    exported = export_to_hf(Export(checkpoints["zero3"], tmp_path / "hf", with_tokenizer=False))
    wider = load_run_config(run_file(model | {"feed_forward_size": 128, "rope_theta": 500000.0}))
    with pytest.raises(ExchangeError) as error:
        import_from_hf(exported, wider, "test")
    assert "model.feed_forward_size is 128 in the run, 64 there" in str(error.value)
    assert "model.rope_theta is 500000.0 in the run, 10000.0 there" in str(error.value)
    fitting = load_run_config(run_file(model))
    values = json.loads((exported / "config.json").read_text())
    for changes, told in (
        ({"model_type": "mistral"}, "only llama is read"),
        ({"attention_bias": True}, "no biases"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0}}, "scaled by 'llama3'"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
    ):
        (exported / "config.json").write_text(json.dumps(values | changes))
        with pytest.raises(ExchangeError, match=told):
            import_from_hf(exported, fitting, "test")
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_refuses_an_export_is_told_as_that(checkpoints, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CheckpointError, match=r"hf: .*File too large.*nothing was kept"):
            export_to_hf(Export(checkpoints["zero3"], tmp_path / "hf", with_tokenizer=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_weights_whose_tokenizer_cannot_be_compared_with_that_of_the_data_are_refused(checkpoints, run_file, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tokenizer.model").write_bytes(b"of the data")
    exported = export_to_hf(Export(checkpoints["zero3"], tmp_path / "hf", with_tokenizer=False))
    config = load_run_config(run_file(read_manifest(checkpoints["zero3"]).config["model"]))
    with pytest.raises(ExchangeError, match=r"tokenizer.model: is not there, so"):
        import_from_hf(exported, config, "test")
    (exported / "tokenizer.json").write_text("{}")
    with pytest.raises(ExchangeError, match=r"\(tokenizer.json cannot be compared\).*--ignore-tokenizer"):
        import_from_hf(exported, config, "test")
    (exported / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(ExchangeError, match=r"checksum .*--ignore-tokenizer"):
        import_from_hf(exported, config, "test")
    assert not (tmp_path / "runs").exists()
    assert read_manifest(import_from_hf(exported, config, "test", ignore_tokenizer=True)).kind == "imported"


def test_a_run_that_has_checkpoints_and_a_place_that_exists_are_left_alone(checkpoints, run_file, tmp_path):
    exported = export_to_hf(Export(checkpoints["zero3"], tmp_path / "hf", with_tokenizer=False))
    with pytest.raises(ExchangeError, match="exists already"):
        export_to_hf(Export(checkpoints["zero3"], exported, with_tokenizer=False))
    config = load_run_config(run_file(read_manifest(checkpoints["zero3"]).config["model"]))
    import_from_hf(exported, config, "test")
    with pytest.raises(ExchangeError, match="has checkpoints already"):
        import_from_hf(exported, config, "test")
