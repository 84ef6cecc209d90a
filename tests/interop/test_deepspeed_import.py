"""Checkpoints that real DeepSpeed engines saved become first checkpoints of runs: bit for bit, and trained on."""

import json
import os
import pickle
import shutil
from functools import partial

import pytest
import safetensors.torch
import torch
import yaml
from typer.testing import CliRunner

from launcher.cli import app
from llama_dist.checkpoint.manifest import CheckpointError, list_steps, read_manifest
from llama_dist.checkpoint.range_reader import Wanted, read_ranges
from llama_dist.checkpoint.verify import verify_checkpoint
from llama_dist.config import load_run_config
from llama_dist.interop.deepspeed_import import our_name
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.import_model import import_model
from llama_dist.parallel.engine import STATES

OURS, THEIRS = {"names": "ours"}, {"names": "hugging_face"}
# Sizes that are no multiple of 2 ranks x 2: the partitions are padded.
NARROW = {"hidden_size": 6, "num_heads": 3, "num_kv_heads": 1, "feed_forward_size": 10}
# Parameters change places and have gaps between them. Without gaps DeepSpeed 0.19.8 finds round-robin parameters in the
# wrong place itself (stage_1_and_2.py, `_link_all_hp_params`), so that it could not tell the truth here.
FULLY_MOVED = {"round_robin_gradients": True, "parameter_alignment": True}
STEPS, MORE = 3, 2
TRAINED = {
    "ours_zero1": OURS | {"zero": 1, "model": NARROW},
    "ours_zero1_bf16": OURS | {"zero": 1, "precision": "bf16", "accumulate": "bf16", "tied": True},
    "ours_zero2_bf16": OURS
    | {"zero": 2, "precision": "bf16", "wrapped": True, "zero_options": {"elastic_checkpoint": True}},
    "ours_zero3": OURS | {"zero": 3, "zero_options": {"sub_group_size": 9000}},
    "theirs_zero1_bf16_optimizer": THEIRS | {"zero": 1, "precision": "bf16", "tied": True},
    "theirs_zero2_fp16": THEIRS | {"zero": 2, "precision": "fp16", "model": NARROW, "zero_options": FULLY_MOVED},
    "theirs_zero2": THEIRS | {"zero": 2, "one_group": True},
    "theirs_zero3": THEIRS | {"zero": 3, "tied": True},
    "ours_zero0": OURS | {"zero": 0},
}
ALONE = {"ours_alone": OURS | {"zero": 1, "tied": True, "layers": 2, "steps": STEPS, "more": 0}}
SIZES = {
    "vocabulary_size": 96, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention": "grouped_query",
    "num_kv_heads": 2, "feed_forward_size": 64, "max_sequence_length_tokens": 64,
}  # fmt: skip

# On one rank our engine adds in another order than DeepSpeed did on two: 4.8e-7 was seen in fp32. In half precision
# what differs is rounded again at each activation, to 8 bits in bf16 and 11 in fp16: 1.9e-4 and 3.8e-6 were seen.
LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3, "fp16": 1e-4}


def with_paths(jobs, root):
    return {
        name: {"layers": 2, "steps": STEPS, "more": MORE} | job
        | {"save": str(root / name), "truth": str(root / f"{name}.safetensors")}
        for name, job in jobs.items()
    }  # fmt: skip


def write_run(directory, name, job, **changes):
    """The config of a run whose model is the job's."""
    values = {
        "name": name,
        "runs_directory": str(directory / "runs"),
        "model": SIZES | job.get("model", {}) | {"tie_embeddings": job.get("tied", False)} | changes,
        "data": {"sources": [{"path": str(directory / "data")}], "sequence_length_tokens": 32},
        "batch": {"global_batch_sequences": 8},
        "train": {"num_steps": 4, "precision": job.get("precision", "fp32")},
    }
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_run_config(path)


def import_into(config, source, told=None):
    return import_model(source, config, "test", ignore_tokenizer=False, tell=(told if told is not None else []).append)


@pytest.fixture(scope="module")
def two_ranks(run_ranks, tmp_path_factory):
    """What plain DeepSpeed saved on two ranks, imported: directory of each, checkpoint of each, losses of each."""
    root = tmp_path_factory.mktemp("deepspeed")
    losses = run_ranks("deepspeed_jobs.py", 2, with_paths(TRAINED, root), timeout_seconds=290)
    checkpoints = {name: import_into(write_run(root, name, job), root / name) for name, job in TRAINED.items()}
    return root, checkpoints, losses


@pytest.fixture(scope="module")
def one_rank(run_ranks, two_ranks):
    """What plain DeepSpeed saved on one rank, and our engine's losses there from what two ranks had saved."""
    root, checkpoints, _ = two_ranks
    goes_on = {
        name: {"layers": 2, "steps": STEPS, "more": MORE} | TRAINED[name] | {"load": str(checkpoint.parent)}
        for name, checkpoint in checkpoints.items()
        if TRAINED[name]["zero"]
    }
    return run_ranks("deepspeed_jobs.py", 1, with_paths(ALONE, root) | goes_on)


def assert_holds_the_truth(checkpoint, truth):
    """Every parameter and state of the checkpoint is what DeepSpeed itself said, bit for bit, and there are no more."""
    manifest = read_manifest(checkpoint)
    assert not verify_checkpoint(checkpoint)
    assert sorted(f"{our_name(key.split(':')[0])}:{key.split(':')[1]}" for key in truth) == sorted(
        f"{name}:{state}" for name in manifest.tensors for state in manifest.states
    )
    for key, tensor in truth.items():
        name, state = key.split(":")
        flat = torch.empty(tensor.numel())
        read_ranges(checkpoint, manifest, [Wanted(our_name(name), state, 0, flat)])
        assert torch.equal(flat.view(tensor.shape), tensor), key
    return manifest


@pytest.mark.parametrize("name", TRAINED)
def test_weights_and_moments_of_two_ranks_come_in_bit_for_bit(two_ranks, name):
    root, checkpoints, _ = two_ranks
    manifest = assert_holds_the_truth(checkpoints[name], safetensors.torch.load_file(root / f"{name}.safetensors"))
    assert (manifest.step, manifest.kind) == (0, "imported")
    if not TRAINED[name]["zero"]:
        assert (manifest.states, manifest.scalars) == (STATES[:1], {})
        return
    assert manifest.states == STATES and manifest.scalars["optimizer_steps"] == STEPS
    # The loss scale goes on too: 2^8 of the job, three steps without an overflow.
    scale = [manifest.scalars.get(field) for field in ("cur_scale", "cur_iter")]
    assert scale == ([256.0, 3.0] if TRAINED[name].get("precision") == "fp16" else [None, None])


def test_a_checkpoint_of_one_rank_comes_in_bit_for_bit(one_rank, two_ranks, tmp_path):
    root, *_ = two_ranks
    told = []
    checkpoint = import_into(write_run(tmp_path, "alone", ALONE["ours_alone"]), root / "ours_alone", told)
    assert_holds_the_truth(checkpoint, safetensors.torch.load_file(root / "ours_alone.safetensors"))
    assert told == [
        f"{root}/ours_alone/global_step3: ZeRO-1 on 1 rank: master weights, both moments after 3 optimizer steps"
    ]


@pytest.mark.parametrize("name", [name for name, job in TRAINED.items() if job["zero"]])
def test_training_goes_on_with_the_losses_that_deepspeed_itself_goes_on_with(one_rank, two_ranks, name):
    theirs, ours = two_ranks[2][name], one_rank[name]
    tolerance = LOSS_TOLERANCE[TRAINED[name].get("precision", "fp32")]
    assert ours["after"] == pytest.approx(theirs["after"], abs=tolerance)
    assert ours["scalars"]["optimizer_steps"] == STEPS + MORE
    # Had it begun anew, the steps in between would be missing.
    assert abs(ours["after"][0] - theirs["before"][0]) > 3 * tolerance


@pytest.fixture
def copied(two_ranks, tmp_path):
    """A copy of a job's folder that a test may damage, its tag, and a run that would take it."""

    def copy(name="ours_zero1", **changes):
        folder = shutil.copytree(two_ranks[0] / name, tmp_path / "theirs")
        return folder, folder / f"global_step{STEPS}", write_run(tmp_path, "run", TRAINED[name], **changes)

    return copy


def refused(config, source, *parts, error=ExchangeError):
    """The import ends with an error that says all of `parts`, and leaves nothing of the run."""
    with pytest.raises(error) as raised:
        import_into(config, source)
    for part in parts:
        assert part in str(raised.value), str(raised.value)
    assert not os.path.lexists(config.runs_directory)


def test_the_folder_of_a_tag_is_enough_and_so_is_a_single_tag_without_latest(copied):
    folder, tag, config = copied()
    (folder / "latest").unlink()
    assert list_steps(import_into(config, folder).parent) == [0]
    again = config.model_copy(update={"name": "again"})
    assert list_steps(import_into(again, tag).parent) == [0]
    with pytest.raises(ExchangeError, match="has checkpoints already"):
        import_into(again, tag)


def test_the_verb_prints_the_checkpoint_and_tells_what_was_found(copied, tmp_path):
    folder, tag, config = copied()
    result = CliRunner().invoke(app, ["checkpoint", "import", str(folder), str(tmp_path / "run.yaml")])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"{config.runs_directory}/run/checkpoints/step_00000000"]
    assert f"{tag}: ZeRO-1 on 2 ranks" in result.stderr


class Bomb:
    """Makes a directory if anything unpickles it."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("file", ["mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"])
@pytest.mark.parametrize("way", ["called", "held", "bare"])
def test_a_pickle_that_would_run_code_is_refused_by_name_and_never_run(copied, tmp_path, file, way):
    folder, tag, config = copied()
    canary = tmp_path / "canary"
    if way == "bare":
        (tag / file).write_bytes(pickle.dumps(Bomb(canary)))
        refused(config, folder, file, error=CheckpointError)
    else:
        bomb = Bomb(canary) if way == "called" else partial(os.mkdir, str(canary))
        torch.save({"module": {"more": bomb}, "optimizer_state_dict": {"more": bomb}}, tag / file)
        asked = "posix.mkdir" if way == "called" else "functools.partial"
        refused(config, folder, file, f"asks for {asked}", "nothing of it was run")
    assert not canary.exists()


def test_missing_and_surplus_ranks_are_named(copied):
    folder, tag, config = copied()
    one = tag / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    shutil.copy(one, tag / "zero_pp_rank_2_mp_rank_00_optim_states.pt")
    refused(config, folder, "is of rank 2, but 2 ranks wrote this checkpoint")
    (tag / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    one.unlink()
    refused(config, folder, f"{one}: is missing: 2 ranks wrote this checkpoint")
    (tag / "mp_rank_00_model_states.pt").unlink()
    shutil.copy(tag / "zero_pp_rank_0_mp_rank_00_optim_states.pt", one)
    refused(config, folder, "mp_rank_00_model_states.pt: is missing")


def test_a_damaged_file_is_named(copied):
    folder, tag, config = copied()
    file = tag / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(config, folder, str(file), "is no whole file", error=CheckpointError)
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    refused(config, folder, str(file), "the file is damaged", error=CheckpointError)


def test_a_rank_of_another_save_is_named(copied, two_ranks):
    folder, tag, config = copied()
    file = tag / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    torch.save({"something": 1}, file)
    refused(config, folder, str(file), "has nothing under optimizer_state_dict")
    other = two_ranks[0] / "theirs_zero2" / f"global_step{STEPS}"
    shutil.copy(other / file.name, file)
    refused(config, folder, str(file), "they are not of one save")
    shutil.copy(other / file.name.replace("rank_1", "rank_0"), tag)
    refused(config, folder, "groups are saved, 2 named", "not of one save")


def test_without_optimizer_files_the_weights_alone_come_in_and_that_is_told(copied):
    folder, tag, config = copied("theirs_zero1_bf16_optimizer")
    for file in tag.glob("*optim_states.pt"):
        file.unlink()
    told = []
    manifest = read_manifest(import_into(config, folder, told))
    assert manifest.states == STATES[:1] and "bfloat16" in told[0] and "moments begin at zero" in told[0]


def test_zero3_without_optimizer_files_is_refused(copied):
    folder, tag, config = copied("ours_zero3")
    for file in tag.glob("*optim_states.pt"):
        file.unlink()
    refused(config, folder, "at ZeRO-3 they hold the weights")


@pytest.mark.parametrize("content", ["../../evil", "..", "/etc", "a\\b", "", "a\0b", "x" * 5000])
def test_latest_names_a_folder_beside_it_and_nothing_else(copied, content):
    folder, _, config = copied()
    (folder / "latest").write_text(content)
    refused(config, folder, "latest: holds", "needs the plain name")


def test_latest_that_names_nothing_is_told(copied):
    folder, _, config = copied()
    (folder / "latest").write_text("global_step9")
    refused(config, folder, "latest: names global_step9, which is not there")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("mp_rank_01_model_states.pt", "is of a tensor parallel model"),
        ("zero_pp_rank_0_mp_rank_01_optim_states.pt", "is of a tensor parallel model"),
        ("layer_00-model_states.pt", "is of a pipeline"),
        ("layer_03-model_00-model_states.pt", "is of a pipeline"),
        ("layer_0_expert_1_mp_rank_00_model_states.pt", "is of a mixture of experts"),
    ],
)
def test_a_model_that_was_cut_otherwise_is_refused_with_what_to_do(copied, file, told):
    folder, tag, config = copied()
    (tag / file).write_bytes(b"")
    refused(
        config, folder, file, told, *(() if "expert" in file else ("save the model as Hugging Face's safetensors",))
    )


def test_what_does_not_fit_is_listed_with_both_sides(copied):
    folder, _, config = copied("theirs_zero2", feed_forward_size=48, num_layers=3)
    gate, missing = "model.layers.0.mlp.gate_proj.weight", "model.layers.2.self_attn.q_proj.weight"
    refused(config, folder, f"{gate}: has shape (64, 32), the run's model (48, 32)", f"{missing}: is missing")


def test_a_tied_head_is_told_where_the_run_has_its_own_and_the_other_way_round(two_ranks, tmp_path):
    for name, is_tied in (("theirs_zero3", True), ("ours_zero3", False)):
        config = write_run(tmp_path, name, TRAINED[name] | {"tied": not is_tied})
        refused(
            config, two_ranks[0] / name, f"model.tie_embeddings is {not is_tied} in the run", f"set it to {is_tied}"
        )


def test_frozen_parameters_are_refused(copied):
    folder, tag, config = copied()
    file = tag / "mp_rank_00_model_states.pt"
    values = torch.load(file)
    values["module"]["layers.0.adapter.weight"] = torch.ones(2, 2)
    torch.save(values, file)
    refused(config, folder, "layers.0.adapter.weight", "frozen")


def test_a_config_of_transformers_beside_it_is_compared(copied):
    folder, _, config = copied("theirs_zero2")
    theirs = {"model_type": "llama", "vocab_size": 96, "hidden_size": 32, "rope_theta": 500000.0}
    (folder / "config.json").write_text(json.dumps(theirs))
    refused(config, folder, "model.rope_theta is 10000.0 in the run, 500000.0 there")
