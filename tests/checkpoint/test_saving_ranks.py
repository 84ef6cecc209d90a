"""Saves of several real ranks: full disks, disks of their own, a rank that dies. Real DeepSpeed over gloo."""

import os
import socket
import subprocess

import pytest

RANK_FILES = ["rank_00000.safetensors", "rank_00001.safetensors"]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A tmpfs that holds a few checkpoints of the test model, or None where none can be mounted."""
    place = tmp_path_factory.mktemp("small_disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        yield None
        return
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def results(run_ranks, small_disk, tmp_path_factory):
    places = {"full": small_disk and str(small_disk), "local": str(tmp_path_factory.mktemp("local"))}
    return run_ranks("saving_jobs.py", 2, places)


def test_on_a_full_disk_training_goes_on_and_the_old_checkpoint_stands(results, small_disk):
    if small_disk is None:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    before, full, freed = results["full"]
    assert before["failure"] is None and before["newest"] == "step_00000001"
    assert "rank_0000" in full["failure"] and "No space left on device" in full["failure"]
    assert full["alerts"] == [full["failure"]]
    assert full["loss"] > 0, "a step was trained while the disk refused"
    assert full["newest"] == "step_00000001" and full["left"] == [], "and the space is given back"
    assert freed["failure"] is None and freed["newest"] == "step_00000003" and freed["alerts"] == []


def test_every_node_publishes_its_own_files_under_the_same_manifest(results):
    nodes = results["local"]
    assert nodes[0]["manifest"] == nodes[1]["manifest"]
    for node, file in zip(nodes, RANK_FILES, strict=True):
        assert node["files"] == ["manifest.json", file, "tokenizer.model"]
        assert node["steps"] == [2] and node["alerts"] == [], "each node prunes its own disk"
        assert node["tracking"] == {"key": "of rank 0"}
        assert node["hosts"] == dict.fromkeys(RANK_FILES, socket.gethostname()) | {"tokenizer.model": ""}


def test_a_rank_that_dies_in_a_save_is_a_lost_peer_by_name_and_no_hang(run_ranks, tmp_path):
    lost = "PeerLostError: rank 0 of 2 lost a peer while the checkpoint of step 7 was written"
    with pytest.raises(AssertionError, match=lost):
        run_ranks("dying_peer.py", 2, {"directory": str(tmp_path / "checkpoints")}, timeout_seconds=60)
    assert not list(tmp_path.glob("checkpoints/step_*"))
