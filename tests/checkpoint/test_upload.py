"""Copies of checkpoints in a store: real files, real processes, a store that fails and a disk that is lost."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from llama_dist.checkpoint.fetching import fetch
from llama_dist.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointError,
    list_steps,
    read_manifest,
    step_directory,
)
from llama_dist.checkpoint.pruning import judge, prune
from llama_dist.checkpoint.retention import Retention
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.checkpoint.store import CheckpointStore
from llama_dist.checkpoint.upload import Share, Uploader, is_uploaded
from llama_dist.checkpoint.verify import verify_checkpoint
from llama_dist.config import CheckpointConfig, RunDirectory
from llama_dist.config.run_life import continue_life, read_life

STATES = ("fp32", "exp_avg", "exp_avg_sq")
ALONE = Share(0, 1, is_disk_leader=True, is_first=True)


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "runs" / "x")


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def write(run, progress):
    def write(step, value=None):
        tensors = [("weight", state, torch.full((1000,), float(value or step))) for state in STATES]
        scalars = {"optimizer_steps": step}
        return write_checkpoint(
            run.checkpoints, progress(step), tensors, scalars=scalars, tokenizer=b"words", states=STATES
        )

    return write


def upload(directories, *stores_and_shares):
    uploaders = [Uploader(store, share) for store, share in stores_and_shares]
    for uploader in uploaders:
        uploader.submit(directories)
    for uploader in uploaders:
        uploader.finish(60)
    return [alert for uploader in uploaders for alert in uploader.take_alerts()]


def test_a_copied_checkpoint_comes_back_bit_for_bit_when_the_disk_is_lost(run, url, write):
    directory = write(3)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert upload([directory], (CheckpointStore(url, "x"), ALONE)) == []
    assert is_uploaded(directory)
    shutil.rmtree(run.checkpoints)
    assert fetch(run, None, url) == directory
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert not verify_checkpoint(directory) and directory.stat().st_mode & 0o777 == 0o700


def test_ranks_copy_a_share_each_and_the_manifest_comes_last(run, url, write):
    directory = write(3)
    store = CheckpointStore(url, "x")
    second = Share(1, 2, is_disk_leader=False, is_first=False)
    upload([directory], (store, second))
    assert store.steps() == [], "half of the files is no checkpoint"
    assert upload([directory], (store, Share(0, 2, is_disk_leader=True, is_first=True)), (store, second)) == []
    assert store.steps() == [3]


class FailingStore(CheckpointStore):
    """Refuses the first requests, as a store does that is overloaded."""

    num_failures = 3

    def put(self, path, step):
        if self.num_failures:
            self.num_failures -= 1
            raise OSError("503 slow down")
        super().put(path, step)


def test_a_store_that_fails_for_a_while_is_asked_again(run, url, write, monkeypatch):
    monkeypatch.setattr("llama_dist.checkpoint.upload._FIRST_DELAY_SECONDS", 0.001)
    directory = write(3)
    assert upload([directory], (FailingStore(url, "x"), ALONE)) == []
    assert is_uploaded(directory)


def test_a_store_that_fails_for_good_is_an_alert_and_the_checkpoint_is_not_pruned(run, url, write, monkeypatch):
    monkeypatch.setattr("llama_dist.checkpoint.upload._FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(FailingStore, "num_failures", 10**9)
    directories = [write(step) for step in (1, 2, 3)]
    (first, *_) = upload(directories, (FailingStore(url, "x"), ALONE))
    assert "step_00000003 was not copied" in first and "503 slow down" in first
    policy = CheckpointConfig(keep_last=1, upload=url)
    assert Retention(run.checkpoints, policy, is_uploaded).remove_superseded(3) == []
    upload(directories, (CheckpointStore(url, "x"), ALONE))
    assert Retention(run.checkpoints, policy, is_uploaded).remove_superseded(3) == [1, 2]
    assert CheckpointStore(url, "x").steps() == [1, 2, 3]


def test_a_step_that_was_written_again_with_other_content_replaces_the_first(run, url, write):
    store = CheckpointStore(url, "x")
    upload([write(3, value=1.0)], (store, ALONE))
    directory = write(3, value=2.0)
    assert not is_uploaded(directory)
    assert upload([directory], (store, ALONE)) == []
    content = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "uploaded.json"}
    shutil.rmtree(run.checkpoints)
    fetch(run, 3, url)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == content


def test_no_manifest_speaks_for_files_of_which_some_are_of_what_the_step_held_before(run, url, write, monkeypatch):
    store = CheckpointStore(url, "x")
    second = Share(1, 2, is_disk_leader=False, is_first=False)
    upload([write(3, value=1.0)], (store, ALONE))
    directory = write(3, value=2.0)
    with monkeypatch.context() as patch:
        patch.setattr("llama_dist.checkpoint.upload._PEERS_SECONDS", 0.0)
        # It copies the second file alone: the first is still the one of before, of the same size.
        leader = Share(1, 2, is_disk_leader=True, is_first=True)
        (alert,) = upload([directory], (store, leader))
    assert "did not copy all files of step_00000003" in alert and not is_uploaded(directory)
    assert store.read(directory.name, MANIFEST_NAME) != (directory / MANIFEST_NAME).read_bytes()
    upload([directory], (store, ALONE), (store, second))
    assert is_uploaded(directory) and store.steps() == [3]


def test_the_newest_goes_first_and_a_damaged_one_holds_up_nobody_and_is_tried_once(run, url, write):
    order = []

    class NotingStore(CheckpointStore):
        def put(self, path, step):
            order.append((step, path.name))
            super().put(path, step)

    directories = [write(step) for step in (1, 2, 3)]
    next(directories[1].glob("part_*")).unlink()
    uploader = Uploader(NotingStore(url, "x"), ALONE)
    uploader.submit(directories)
    uploader.submit(directories)
    uploader.finish(60)
    (alert,) = uploader.take_alerts()
    assert "step_00000002 was not copied" in alert and "part_00000.safetensors: is missing" in alert
    steps = [step for step, name in order if name == MANIFEST_NAME]
    assert steps == ["step_00000003", "step_00000001"]
    uploader = Uploader(NotingStore(url, "x"), ALONE)
    os.truncate(next(write(4).glob("part_*")), 10)
    uploader.submit([step_directory(run.checkpoints, 4)])
    uploader.finish(60)
    assert "10 bytes, the manifest says" in uploader.take_alerts()[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from llama_dist.checkpoint.store import CheckpointStore
from llama_dist.checkpoint.upload import Share, Uploader

class KilledStore(CheckpointStore):
    num_left = int(sys.argv[3])
    def put(self, path, step):
        if not self.num_left:
            self._filesystem.makedirs(f"{self._root}/{step}", exist_ok=True)
            with self._filesystem.open(f"{self._root}/{step}/{path.name}", "wb") as half:
                half.write(path.read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_left -= 1
        super().put(path, step)

uploader = Uploader(KilledStore(sys.argv[1], "x"), Share(0, 1, is_disk_leader=True, is_first=True))
uploader.submit([Path(sys.argv[2])])
uploader.finish(60)
"""


@pytest.mark.parametrize("num_copied", [0, 1, 2])
def test_a_kill_in_mid_copy_leaves_no_whole_checkpoint_there_and_the_next_attempt_finishes(run, url, write, num_copied):
    directory = write(3)
    process = subprocess.run([sys.executable, "-c", KILLED, url, directory, str(num_copied)], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not is_uploaded(directory)
    store = CheckpointStore(url, "x")
    if store.steps():  # the manifest itself was cut off: it does not read
        with pytest.raises(CheckpointError):
            store.fetch(3, run.checkpoints)
    assert upload([directory], (store, ALONE)) == []
    shutil.rmtree(run.checkpoints)
    assert not verify_checkpoint(fetch(run, 3, url))


def test_a_damaged_copy_is_passed_over_for_the_one_before_and_leaves_nothing(run, url, write, tmp_path):
    upload([write(1), write(2)], (CheckpointStore(url, "x"), ALONE))
    shutil.rmtree(run.checkpoints)
    file = next((tmp_path / "store" / "x" / "step_00000002").glob("part_*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert fetch(run, None, url) == step_directory(run.checkpoints, 1)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step_00000001"]
    with pytest.raises(CheckpointError, match=r"no step 2 to fetch.*is damaged"):
        fetch(run, 2, url)


def lives_of(run, number):
    """Begin so many lives, and answer their tokens."""
    run.path.mkdir(parents=True, exist_ok=True)
    lives = []
    for second in range(number):
        continue_life(run, f"20260101T00000{second}Z-0123abcd")
        lives.append(read_life(run))
    return lives


def test_what_the_run_was_before_it_began_anew_is_not_fetched_for_it(run, url, write):
    old, new = lives_of(run, 2)
    upload([write(5000)], (CheckpointStore(url, "x", old), ALONE))
    shutil.rmtree(run.checkpoints)
    with pytest.raises(CheckpointError, match=rf"no checkpoint to fetch: it has none\n.*{old}: name one with --life"):
        fetch(run, None, url)
    upload([write(1200)], (CheckpointStore(url, "x", new), ALONE))
    shutil.rmtree(run.checkpoints)
    assert fetch(run, None, url) == step_directory(run.checkpoints, 1200)
    assert fetch(run, None, url, life=old) == step_directory(run.checkpoints, 5000)
    with pytest.raises(CheckpointError, match=rf"no life 'y' of run `x`; it has: {old}, {new}"):
        fetch(run, None, url, life="y")


def test_a_run_whose_whole_directory_was_lost_is_given_its_newest_life_and_told(run, url, write):
    old, new = lives_of(run, 2)
    upload([write(3)], (CheckpointStore(url, "x"), ALONE))  # as runs without lives did
    upload([write(9)], (CheckpointStore(url, "x", old), ALONE))
    upload([write(5)], (CheckpointStore(url, "x", new), ALONE))
    shutil.rmtree(run.path)
    told = []
    assert fetch(run, None, url, tell=told.append) == step_directory(run.checkpoints, 5)
    assert f"the newest of the store, {new}; it also has '' (from before runs had lives), {old}" in told[0]
    assert fetch(run, None, url, life="") == step_directory(run.checkpoints, 3)


def test_a_good_local_checkpoint_is_not_replaced_and_a_damaged_one_is_set_aside(run, url, write):
    directory = write(3)
    upload([directory], (CheckpointStore(url, "x"), ALONE))
    with pytest.raises(CheckpointError, match="is there already, and good"):
        fetch(run, None, url)
    os.truncate(next(directory.glob("part_*")), 10)
    assert fetch(run, None, url) == directory and not verify_checkpoint(directory)
    aside = run.checkpoints / "step_00000003.before_fetch_1"
    assert next(aside.glob("part_*")).stat().st_size == 10 and list_steps(run.checkpoints) == [3]


def test_a_live_run_is_given_nothing_that_it_would_go_on_from(run, url, write):
    upload([write(1), write(2)], (CheckpointStore(url, "x"), ALONE))
    shutil.rmtree(step_directory(run.checkpoints, 2))
    with run.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="run `x` is live"):
            fetch(run, 2, url)
        shutil.rmtree(run.checkpoints)  # a launch that finds none asks for one
        fetch(run, 2, url)


def test_a_store_without_its_package_or_with_a_secret_in_its_name_is_refused():
    with pytest.raises(CheckpointError, match="install the fsspec package"):
        CheckpointStore("nosuch://place", "x")
    with pytest.raises(CheckpointError, match="leave secrets out"):
        CheckpointStore("http://user:${PASSWORD}@place", "x")


def test_pruning_by_hand_reads_the_newest_good_one_first(run, write):
    for step in (1, 2, 3):
        write(step)
    file = next(step_directory(run.checkpoints, 3).glob("part_*"))
    os.truncate(file, 10)
    verdicts = judge(run, CheckpointConfig(keep_last=1))
    assert [verdict.to_line() for verdict in verdicts] == [
        "step 1: superseded",
        "step 2: kept: newest good, among the last 1",
        "step 3: kept: later than the newest good one",
    ]
    prune(run, verdicts)
    assert list_steps(run.checkpoints) == [2, 3]
    shutil.rmtree(step_directory(run.checkpoints, 2))
    with pytest.raises(CheckpointError, match=r"none is removed: .*no checkpoint is good"):
        judge(run, CheckpointConfig())


def test_a_run_written_again_at_a_step_is_judged_anew(run, write):
    retention = Retention(run.checkpoints, CheckpointConfig(keep_last=1), is_uploaded)
    write(1), write(2)
    assert retention.reasons(2)[1] == ()
    time.sleep(0.01)
    assert read_manifest(write(2)).step == 2 and retention.reasons(2)[2]
