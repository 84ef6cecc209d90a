"""Each bad input is one clear message and its exit code, before any long work, with nothing lost."""

import shutil
import socket

import pytest
import yaml

from llama_dist.checkpoint.manifest import list_steps, step_directory

TWO_RANKS = ("--set", "cluster.num_processes_per_node=2")


def refused(finished, exit_code, *fragments):
    assert finished.returncode == exit_code, finished.stdout + finished.stderr
    text = finished.stdout + finished.stderr
    assert "Traceback" not in text
    for fragment in fragments:
        assert fragment in text, text


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("optimizer.learning_rte=1", ["optimizer.learning_rte", "did you mean `learning_rate`"]),
        ("batch.global_batch_sequences=many", ["batch.global_batch_sequences", "valid integer"]),
        ("batch.global_batch_sequences=9", ["global_batch 9 sequences is not a multiple of 4", "use 8 or 12"]),
        ("parallel={zero_stage: 3, pipeline_stages: 2}", ["pipeline-needs-zero-0-or-1"]),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_the_run_exists(
    llama_dist, write_run, tmp_path, override, fragments
):
    finished = llama_dist("launch", write_run(), *TWO_RANKS, "--set", override)
    refused(finished, 78, *fragments)
    assert not (tmp_path / "runs" / "small").exists()


def test_an_empty_corpus_is_refused(llama_dist, corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ("--tokenizer", corpus / "tokenizer.model", "--output", tmp_path / "data")
    refused(llama_dist("data", "prepare", tmp_path / "empty", *arguments), 78, str(tmp_path / "empty"))
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_a_file_that_is_not_utf8_is_named_with_its_offset(llama_dist, corpus, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "latin.txt").write_bytes(b"caf\xe9 au lait")
    arguments = ("--tokenizer", corpus / "tokenizer.model", "--output", tmp_path / "data")
    refused(llama_dist("data", "prepare", tmp_path / "text", *arguments), 78, "latin.txt", "3")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_missing_or_truncated_shard_is_named_before_training(llama_dist, corpus, write_run, tmp_path, damage):
    shutil.copytree(corpus / "data", tmp_path / "data")
    shard = sorted((tmp_path / "data" / "shards").glob("train*.arrow"))[0]
    if damage == "missing":
        shard.unlink()
    else:
        with shard.open("r+b") as stream:
            stream.truncate(shard.stat().st_size // 2)
    run_file = write_run(data={"sources": [{"path": str(tmp_path / "data")}], "sequence_length_tokens": 64})
    refused(llama_dist("launch", run_file), 78, shard.name)


def test_a_port_in_use_is_told_before_anything_starts(llama_dist, write_run, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        finished = llama_dist("launch", write_run(), "--set", f"cluster.rendezvous_port={port}")
    refused(finished, 78, str(port))
    assert not (tmp_path / "runs" / "small").exists()


def test_damaged_checkpoints_are_passed_over_and_never_restart_from_zero(llama_dist, write_run, tmp_path):
    run_file = write_run(train={"num_steps": 14, "precision": "fp32"})
    first = llama_dist("launch", run_file)
    assert first.returncode == 0, first.stdout + first.stderr
    checkpoints = tmp_path / "runs" / "small" / "checkpoints"
    assert list_steps(checkpoints) == [7, 14]
    flip_a_byte(step_directory(checkpoints, 14) / "rank_00000.safetensors")

    second = llama_dist("launch", run_file, "--set", "train.num_steps=16")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "passed over" in second.stdout and "rank_00000.safetensors" in second.stdout
    assert "step_00000007 (step 7" in second.stdout

    for step in list_steps(checkpoints):
        flip_a_byte(step_directory(checkpoints, step) / "rank_00000.safetensors")
    third = llama_dist("launch", run_file, "--set", "train.num_steps=18")
    refused(third, 74, "no checkpoint is good", "--fresh")
    verified = llama_dist("checkpoint", "verify", tmp_path / "runs" / "small")
    refused(verified, 74, "rank_00000.safetensors", "checksum")

    checkpoints.rename(tmp_path / "unmounted")
    lost = llama_dist("launch", run_file, "--set", "train.num_steps=18")
    refused(lost, 74, "has saved one up to step 1", "--fresh")
    (tmp_path / "unmounted").rename(checkpoints)

    fourth = llama_dist("launch", run_file, "--set", "train.num_steps=8", "--fresh")
    assert fourth.returncode == 0, fourth.stdout + fourth.stderr
    assert "starting at step 0" in fourth.stdout
    assert list(checkpoints.parent.glob("checkpoints.before_attempt_*")), "the old ones are set aside, not deleted"


def test_a_run_name_that_exists_with_another_config_is_refused_with_the_difference(llama_dist, write_run, tmp_path):
    run_file = write_run(train={"num_steps": 1, "precision": "fp32"})
    assert llama_dist("launch", run_file).returncode == 0
    values = yaml.safe_load(run_file.read_text())
    values["data"]["shuffle_seed"] = 5
    run_file.write_text(yaml.safe_dump(values))
    refused(llama_dist("launch", run_file), 78, "data.shuffle_seed", "0", "5", "--allow-change")


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
