"""What a manifest may say: whatever else it says under a right checksum is refused by name, and crashes nothing."""

import json
import math

import pytest
import xxhash

from llama_dist.checkpoint.manifest import CheckpointError, FileRecord, Manifest, Piece, TensorRecord, parse_manifest

FILE = FileRecord("rank_00000.safetensors", 1000, "00", "host")
SCALARS = {"optimizer_steps": 3.0, "cur_scale": 65536.0, "last_overflow_iter": -1.0}


@pytest.fixture
def read(progress, tmp_path):
    """Answers the manifest that is read after one of its values was changed, with the checksum made right again."""

    def changed(change=lambda values: None):
        tensors = {"norm.weight": TensorRecord((5,), (Piece(0, 0, 5),))}
        manifest = Manifest(**vars(progress(2)), scalars=SCALARS, files=(FILE,), tensors=tensors)
        values = json.loads(manifest.to_json())
        del values["checksum"]
        change(values)
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        content = json.dumps(values | {"checksum": xxhash.xxh3_128(text.encode()).hexdigest()})
        return parse_manifest(content.encode(), tmp_path / "step_00000002")

    return changed


def test_what_a_run_writes_is_read_back(read):
    manifest = read()
    assert (manifest.step, manifest.files, manifest.scalars) == (2, (FILE,), SCALARS)


def test_what_older_checkpoints_lack_has_a_default(read):
    def as_version_1(values):
        values["version"] = 1
        for key in ("kind", "held_out_loss", "tracking", "states", "former_save_seconds"):
            del values[key]
        del values["files"][0]["host"]

    manifest = read(as_version_1)
    assert (manifest.kind, manifest.held_out_loss, manifest.files[0].host) == ("interval", None, "")


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_counts_as_not_measured(read, loss):
    assert read(lambda values: values.update(held_out_loss=loss)).held_out_loss is None


CHANGES = {
    "a version that is true": (lambda v: v.update(version=True), "format version True"),
    "a version that is 1.0": (lambda v: v.update(version=1.0), "format version 1.0"),
    "a loss that is text": (lambda v: v.update(held_out_loss="x"), "held_out_loss: 'x'"),
    "a loss that is true": (lambda v: v.update(held_out_loss=True), "held_out_loss: True"),
    "a vast loss": (lambda v: v.update(held_out_loss=10**400), "held_out_loss: 1000"),
    "a vast step count": (lambda v: v["scalars"].update(optimizer_steps=10**400), "optimizer_steps: 1000"),
    "an endless scale": (lambda v: v["scalars"].update(cur_scale=math.inf), "cur_scale: inf"),
    "steps below zero": (lambda v: v["scalars"].update(optimizer_steps=-1), "optimizer_steps: -1"),
    "a vast step": (lambda v: v.update(tokens_seen=2**63), "tokens_seen: 9223372036854775808"),
    "a save that took no number": (lambda v: v.update(former_save_seconds=math.nan), "former_save_seconds: nan"),
    "a world that is a list": (lambda v: v.update(world=[2]), "world: "),
    "a world of text": (lambda v: v.update(world={"world_size": "two"}), "world_size: 'two'"),
    "a tracker that is text": (lambda v: v.update(tracking="x"), "tracking: 'x'"),
    "a revision that is a list": (lambda v: v.update(code_revision=["x"]), "code_revision: "),
    "no revision": (lambda v: v.pop("code_revision"), "code_revision: None"),
    "a host that is a number": (lambda v: v["files"][0].update(host=7), "host: 7"),
    "a file for the manifest": (lambda v: v["files"][0].update(name="manifest.json"), "'manifest.json' is taken"),
    "a file for the note": (lambda v: v["files"][0].update(name="uploaded.json"), "'uploaded.json' is taken"),
    "a hidden file": (lambda v: v["files"][0].update(name=".manifest.json.new"), "'.manifest.json.new' is taken"),
    "an empty tensor": (lambda v: v["tensors"].update({"a": {"shape": [3, 0], "pieces": []}}), r"a: shape \[3, 0\]"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_no_run_writes_is_refused_by_name(read, name):
    change, message = CHANGES[name]
    with pytest.raises(CheckpointError, match=message):
        read(change)
