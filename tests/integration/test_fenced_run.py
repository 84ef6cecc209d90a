"""Ranks that were frozen, and come back when the run has gone on without them, write nothing.

Real trainers without a launcher, which would end them with itself.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from run_evidence import losses

from launcher.attempt_files import write_config
from launcher.records import read_heartbeats
from llama_dist.checkpoint.manifest import list_steps
from llama_dist.config import RunDirectory, load_run_config

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NUM_STEPS = 30
NUM_RANKS = 2
WAIT_SECONDS = 300


class Attempt:
    """Two ranks of one attempt, started as torchrun would."""

    def __init__(self, run, number, config):
        self.run, self.number = run, number
        (run.attempt(number) / "exits").mkdir(parents=True)
        write_config(run.attempt_config(number), config)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        settings = {
            "WORLD_SIZE": str(NUM_RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", "llama_dist.train", "--run-directory", str(run.path), "--attempt", str(number)]
        self.log = (run.attempt(number) / "log").open("w+")
        self.ranks = [
            subprocess.Popen(
                command,
                env=os.environ | settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=self.log,
                stderr=subprocess.STDOUT,
            )
            for rank in range(NUM_RANKS)
        ]

    def wait_until(self, condition, poll_seconds=0.02):
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline and self.is_running(), self.output()[-3000:]
            time.sleep(poll_seconds)

    def is_running(self):
        return all(rank.poll() is None for rank in self.ranks)

    def signal(self, number):
        for rank in self.ranks:
            rank.send_signal(number)

    def freeze_in_mid_step(self):
        self.wait_until(lambda: any(beat.step >= 5 and beat.phase == "train" for beat in self._beats()))
        self.signal(signal.SIGSTOP)

    def freeze_in_mid_save(self):
        """A save takes some milliseconds: try until the processes stand still with one under way."""
        self.wait_until(lambda: any(beat.step > 0 for beat in self._beats()))
        while not self._staged():
            self.signal(signal.SIGCONT)
            self.wait_until(self._staged, poll_seconds=0.0005)
            self.signal(signal.SIGSTOP)

    def codes(self):
        return [rank.wait(WAIT_SECONDS) for rank in self.ranks]

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def _staged(self):
        return list(self.run.checkpoints.glob(f".staging_*_{self.number:04d}"))

    def _beats(self):
        return [beat for beat in read_heartbeats(self.run.heartbeats).values() if beat.attempt == self.number]


@pytest.fixture
def start(write_run):
    attempts = []
    file = write_run(
        train={"num_steps": NUM_STEPS, "precision": "fp32"},
        checkpoint={"interval_steps": 1, "keep_last": 3},
        metrics={"mlflow": False, "audit_samples": True},
    )
    config = load_run_config(file, ())

    def begin(run, number):
        attempts.append(Attempt(run, number, config))
        return attempts[-1]

    yield begin
    for attempt in attempts:
        for rank in attempt.ranks:
            rank.kill()
            rank.wait(30)
        attempt.log.close()


def everything(run):
    """Each file and directory that a newer attempt owns, with content and times."""
    owned = [run.checkpoints, run.metrics, run.heartbeats, run.attempt(3)]
    paths = [path for directory in owned for path in (directory, *directory.rglob("*"))]
    return {path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


@pytest.mark.timeout(900)
def test_ranks_frozen_in_mid_step_and_in_mid_save_write_nothing_when_they_come_back(start, tmp_path):
    run = RunDirectory(tmp_path / "runs" / "small")
    in_step = start(run, 1)
    in_step.freeze_in_mid_step()
    in_save = start(run, 2)
    in_save.freeze_in_mid_save()

    newest = start(run, 3)
    assert newest.codes() == [0, 0], newest.output()[-3000:]
    assert list_steps(run.checkpoints)[-1] == NUM_STEPS
    assert sorted(losses(run)) == list(range(1, NUM_STEPS + 1))
    before = everything(run)

    for old in (in_step, in_save):
        assert old.is_running()
        old.signal(signal.SIGCONT)
        assert old.codes() == [75, 75], old.output()[-3000:]
        assert not list((run.attempt(old.number) / "exits").iterdir())
    assert "attempt 2 has begun" in in_step.output() and "attempt 3 has begun" in in_save.output()
    assert everything(run) == before
