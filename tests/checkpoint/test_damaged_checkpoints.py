"""Whatever lies where a checkpoint should be is refused by name, nothing of it runs, and all ranks agree what is next.

Real ranks over gloo load what one process wrote and the test then damaged, with checksums made right where the
damage is meant to get past them.
"""

import json
import math
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import xxhash

from llama_dist.checkpoint.describe import verify_all
from llama_dist.checkpoint.load import find_newest_good, load_weights
from llama_dist.checkpoint.manifest import MANIFEST_NAME, CheckpointError, Progress, step_directory
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.config import parse_run_config
from llama_dist.model.llama import Llama
from llama_dist.parallel.engine import STATES

sys.path.insert(0, str(Path(__file__).parent.parent / "rank_programs"))
from checkpoint_jobs import SHAPES, content

EMBED, LAYER_0, LAYER_1 = (f"part_{number:05d}.safetensors" for number in range(3))
KEY = "layers.0.weight:fp32:0"


class Bomb:
    """Unpickling it touches the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def write(checkpoints, step):
    progress = Progress(step, 100, {"model": {"vocabulary_size": 40}}, "test", {}, {})
    tensors = [(name, state, content(name, state, step)) for name in SHAPES for state in STATES]
    return write_checkpoint(
        checkpoints, progress, tensors, scalars={"optimizer_steps": 3.0}, tokenizer=b"a tokenizer", states=STATES
    )


def change_manifest(directory, change):
    """Change the values, and make the checksum right again, as one who means harm would."""
    path = directory / MANIFEST_NAME
    values = json.loads(path.read_text())
    del values["checksum"]
    change(values)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(values | {"checksum": xxhash.xxh3_128(text.encode()).hexdigest()}))


def replace_file(directory, name, new):
    """Replace a file, and let the manifest say that this is how it was written."""
    (directory / name).write_bytes(new)

    def change(values):
        record = next(record for record in values["files"] if record["name"] == name)
        record |= {"num_bytes": len(new), "checksum": xxhash.xxh3_128(new).hexdigest()}

    change_manifest(directory, change)


def change_header(change):
    """A damage: `change` is given the header's entries, which are then written back under right checksums."""

    def damage(directory):
        old = (directory / LAYER_0).read_bytes()
        length = int.from_bytes(old[:8], "little")
        entries = json.loads(old[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        replace_file(directory, LAYER_0, len(text).to_bytes(8, "little") + text + old[8 + length :])

    return damage


def new_content(new):
    return lambda directory: replace_file(directory, LAYER_0, new)


def instead(name, make):
    """A damage: remove the file and make something else under its name."""

    def damage(directory):
        (directory / name).rename(directory.parent.parent / "kept")
        make(directory / name)

    return damage


def swap(directory):
    (directory / LAYER_0).rename(directory / "between")
    (directory / LAYER_1).rename(directory / LAYER_0)
    (directory / "between").rename(directory / LAYER_1)


def flip(path):
    old = path.read_bytes()
    path.write_bytes(old[:-5] + bytes([old[-5] ^ 1]) + old[-4:])


def link_step(directory):
    elsewhere = directory.parent.parent / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)


def bomb(path):
    path.write_bytes(pickle.dumps(Bomb(path.parent.parent.parent / "canary")))


def manifest_values(change):
    return lambda directory: change_manifest(directory, change)


DAMAGES = {  # what is done to the directory of step 2; how the file is named; what is said of it
    "flipped": (lambda d: flip(d / LAYER_0), LAYER_0, "checksum .*, the manifest says"),
    "truncated": (lambda d: os.truncate(d / LAYER_0, 100), LAYER_0, "100 bytes, the manifest says"),
    "emptied": (lambda d: os.truncate(d / LAYER_0, 0), LAYER_0, "0 bytes, the manifest says"),
    "deleted": (lambda d: (d / LAYER_0).unlink(), LAYER_0, "No such file"),
    "swapped": (swap, LAYER_1, "checksum .*, the manifest says"),
    "no tokenizer": (lambda d: (d / "tokenizer.model").unlink(), "tokenizer.model", "No such file"),
    "bomb": (instead(LAYER_0, bomb), LAYER_0, "bytes, the manifest says"),
    "link": (instead(LAYER_0, lambda p: p.symlink_to("../../kept")), LAYER_0, "is a link, .*needs a regular file"),
    "pipe": (instead(LAYER_0, os.mkfifo), LAYER_0, "is a pipe, .*needs a regular file"),
    "directory": (instead(LAYER_0, Path.mkdir), LAYER_0, "is a directory, .*needs a regular file"),
    "bomb as manifest": (instead(MANIFEST_NAME, bomb), MANIFEST_NAME, "is not JSON"),
    "nested manifest": (lambda d: (d / MANIFEST_NAME).write_text("[" * 99999), MANIFEST_NAME, "is not JSON"),
    "pipe as manifest": (instead(MANIFEST_NAME, os.mkfifo), MANIFEST_NAME, "is a pipe"),
    "linked manifest": (instead(MANIFEST_NAME, lambda p: p.symlink_to("../../kept")), MANIFEST_NAME, "is a link"),
    "no manifest": (lambda d: (d / MANIFEST_NAME).unlink(), MANIFEST_NAME, "No such file"),
    "another's manifest": (
        lambda d: shutil.copy(step_directory(d.parent, 1) / MANIFEST_NAME, d), MANIFEST_NAME,
        "is of step 1, its directory of step 2",
    ),
    "linked step": (link_step, "step_00000002", "is a link or a file"),
    "name that leads out": (
        manifest_values(lambda v: v["files"][0].update(name="../../kept")), MANIFEST_NAME, "leads out"
    ),
    "file that is not listed": (
        manifest_values(lambda v: v["tensors"]["norm.weight"]["pieces"][0].update(file=9)), MANIFEST_NAME, "in file 9"
    ),
    "hole": (
        manifest_values(lambda v: v["tensors"]["norm.weight"]["pieces"][0].update(offset=2)), MANIFEST_NAME,
        "starts at 2, the one before ends at 0",
    ),
    "size that is no number": (
        manifest_values(lambda v: v["files"][0].update(num_bytes="many")), MANIFEST_NAME, "num_bytes: 'many'"
    ),
    "step that is no number": (manifest_values(lambda v: v.update(step=[2])), MANIFEST_NAME, r"step: \[2\]"),
    "two files for one": (
        manifest_values(lambda v: v["files"][1].update(name=EMBED)), MANIFEST_NAME, "is listed twice"
    ),
    "other dtype": (change_header(lambda e: e[KEY].update(dtype="BF16")), LAYER_0, "as 'BF16', needs F32"),
    "other shape": (change_header(lambda e: e[KEY].update(shape=[30, 30])), LAYER_0, r"shape \[30, 30\], .*\[900\]"),
    "missing key": (change_header(lambda e: e.pop(KEY)), LAYER_0, f"lacks {KEY}"),
    "offsets out of range": (
        change_header(lambda e: e[KEY].update(data_offsets=[1 << 40, (1 << 40) + 3600])), LAYER_0, "inside its"
    ),
    "offsets below zero": (change_header(lambda e: e[KEY].update(data_offsets=[-3600, 0])), LAYER_0, "inside its"),
    "offsets that are text": (change_header(lambda e: e[KEY].update(data_offsets="ab")), LAYER_0, "at 'ab'"),
    "entry that is a list": (change_header(lambda e: e.update({KEY: []})), LAYER_0, "by list"),
    "vast header": (new_content(b"\xff" * 8 + b"{}"), LAYER_0, "header has 18446744073709551615 bytes"),
    "no header": (new_content(b"abc"), LAYER_0, "has 3 bytes"),
    "bomb with right checksums": (new_content(pickle.dumps(Bomb(Path("canary")))), LAYER_0, "header"),
    "header that is no JSON": (new_content((3).to_bytes(8, "little") + b"{'a"), LAYER_0, "not JSON"),
    "header that is a list": (new_content((2).to_bytes(8, "little") + b"[]"), LAYER_0, "holds list"),
}  # fmt: skip


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Directory of the checkpoints by damage: step 1 is good, step 2 damaged."""
    root = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama_dist.checkpoint.save.PART_BYTES", 1)  # a file for every parameter
        write(root / "good", 1), write(root / "good", 2)
    places = {}
    for number, (name, (damage, *_)) in enumerate(DAMAGES.items()):
        places[name] = root / str(number) / "checkpoints"
        shutil.copytree(root / "good", places[name], symlinks=True)
        damage(step_directory(places[name], 2))
    places["none good"] = root / "none good"
    shutil.copytree(root / "good", places["none good"], symlinks=True)
    for step in (1, 2):
        flip(step_directory(places["none good"], step) / EMBED)
    places["evil latest"] = root / "evil latest"
    shutil.copytree(root / "good", places["evil latest"], symlinks=True)
    (places["evil latest"] / "latest").unlink()
    (places["evil latest"] / "latest").symlink_to("../../evil")
    places["only a link"] = root / "only a link"
    places["only a link"].mkdir()
    step_directory(places["only a link"], 10).symlink_to(step_directory(root / "good", 1))
    return places


@pytest.fixture(scope="module")
def loaded(damaged, run_ranks):
    """What each of two ranks made of each, by damage."""
    good = damaged["evil latest"]
    jobs = {name: {"do": "load", "checkpoints": str(place)} for name, place in damaged.items()}
    only_first, elsewhere = good.parent / "only first", good.parent / ("x" * 300)
    shutil.copytree(good, only_first, symlinks=True)
    shutil.rmtree(step_directory(only_first, 2))
    jobs |= {
        name: {"do": "load", "checkpoints": list(map(str, places))}
        for name, places in {
            "seen by rank 0 alone": (good, only_first),
            "seen by rank 1 alone": (only_first, good),
            "listing fails on rank 1": (good, elsewhere),
        }.items()
    }
    jobs["file gone on rank 1"] = {
        "do": "load", "checkpoints": str(good), "gone_after_verification": 1
    }  # fmt: skip
    jobs["other shape of the model"] = {
        "do": "load", "checkpoints": str(good), "shapes": {"embed.weight": (48, 50)},
        "model_config": {"vocabulary_size": 48, "hidden_size": 50},
    }  # fmt: skip
    results = run_ranks("checkpoint_jobs.py", 2, list(jobs.values()), timeout_seconds=60)
    return dict(zip(jobs, results, strict=True))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_told_by_name_on_every_rank_and_the_older_checkpoint_is_loaded(loaded, damaged, damage):
    _, name, said = DAMAGES[damage]
    directory = step_directory(damaged[damage], 2)
    path = directory if name == directory.name else directory / name
    for of_rank in loaded[damage]:
        assert of_rank["step"] == 1 and of_rank["right"], of_rank
        assert of_rank["passed_over"] == loaded[damage][0]["passed_over"]
        (told,) = [line for line in of_rank["passed_over"] if str(path) in line]
        assert re.search(said, told), told


def test_nothing_that_was_planted_ran(loaded, damaged):
    assert len(loaded) > len(DAMAGES)
    root = damaged["bomb"].parent.parent
    assert not list(root.rglob("canary")) and not Path("canary").exists()


@pytest.mark.parametrize("damage", ["bomb", "bomb as manifest", "swapped", "linked step", "other dtype"])
def test_a_single_process_refuses_it_likewise(damaged, damage):
    _, name, said = DAMAGES[damage]
    directory = step_directory(damaged[damage], 2)
    assert find_newest_good(damaged[damage]) == step_directory(damaged[damage], 1)
    with pytest.raises(CheckpointError, match=said):
        load_weights(directory)
    with pytest.raises(CheckpointError, match=f"{name}.*{said}"):
        list(verify_all(directory))


def test_where_none_is_good_every_rank_ends_with_every_fault(loaded):
    for of_rank in loaded["none good"]:
        assert "no checkpoint is good" in of_rank["error"] and "--fresh" in of_rank["error"]
        assert all(f"step_0000000{step}/{EMBED}" in of_rank["error"] for step in (1, 2))


def test_a_linked_step_alone_is_no_start_from_zero(loaded):
    for of_rank in loaded["only a link"]:
        assert re.search("step_00000010: is a link", of_rank["error"]), of_rank


def test_the_link_for_people_is_never_followed(loaded):
    assert all(of_rank["step"] == 2 and of_rank["right"] for of_rank in loaded["evil latest"])


def test_a_checkpoint_that_only_one_rank_sees_is_passed_over_by_all(loaded):
    for name, rank in (("seen by rank 0 alone", 1), ("seen by rank 1 alone", 0)):
        for of_rank in loaded[name]:
            assert of_rank["step"] == 1 and of_rank["right"], (name, of_rank)
            assert re.search(f"rank {rank} on host .*step_00000002.*No such file", of_rank["passed_over"][0]), of_rank


def test_a_file_system_that_fails_one_rank_ends_all_by_its_name(loaded):
    for of_rank in loaded["listing fails on rank 1"]:
        assert re.search("rank 1 on host .*cannot be listed: File name too long", of_rank["error"]), of_rank
    for of_rank in loaded["file gone on rank 1"]:
        assert re.search(
            r"cannot be loaded:\n  rank 1 on host .*nowhere.part_00000.*: cannot be read", of_rank["error"]
        ), of_rank


def test_another_shape_is_refused_with_both_sides_and_the_field(loaded):
    for of_rank in loaded["other shape of the model"]:
        assert "embed.weight: the model has shape (48, 50), the checkpoint (40, 50)" in of_rank["error"]
        assert "model.vocabulary_size differs: 48 here, 40 in the checkpoint" in of_rank["error"]


def test_the_real_trainer_passes_bombs_over_and_imported_weights_begin_without_moments(run_ranks, tmp_path):
    model = {
        "vocabulary_size": 96, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "attention": "grouped_query",
        "num_kv_heads": 2, "feed_forward_size": 64, "max_sequence_length_tokens": 64,
    }  # fmt: skip
    config = parse_run_config(
        {
            "name": "x", "model": model, "data": {"sources": [{"path": "unused"}]},
            "batch": {"global_batch_sequences": 1}, "train": {"num_steps": 1},
        },
        where="test",
    )  # fmt: skip
    weights = dict(Llama(config.model).named_parameters())
    for step in (3, 4, 5):
        write_checkpoint(
            tmp_path / "checkpoints",
            Progress(step, 0, {}, "test", {}, {}, kind="imported"),
            [(name, "fp32", torch.full_like(weight, 0.01)) for name, weight in weights.items()],
            scalars={}, tokenizer=b"", states=("fp32",),
        )  # fmt: skip
    bomb(step_directory(tmp_path / "checkpoints", 4) / EMBED)
    bomb(step_directory(tmp_path / "checkpoints", 5) / MANIFEST_NAME)
    job = {"zero": 1, "steps": [3, 5], "load": str(tmp_path / "checkpoints")}
    result = run_ranks("engine_jobs.py", 1, {"job": job})["job"]
    assert result["scalars"]["optimizer_steps"] == 2
    assert result["losses"][0] == pytest.approx(math.log(96), abs=1e-3), "equal weights give every token the same odds"
    assert not list(tmp_path.rglob("canary"))
