"""A run that is killed again and again ends as the unbroken run: weights, moments, losses and samples, bit for bit.

Ranks, the agent and the supervisor are killed by SIGKILL, at random and aimed into a save: as a file of it is written,
before and after each of its renames. Only a killed supervisor needs a new launch.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from launcher.records import read_heartbeats, read_supervisor
from llama_dist.checkpoint.compare import compare_checkpoints
from llama_dist.checkpoint.manifest import list_steps, step_directory
from llama_dist.config import RunDirectory
from llama_dist.metrics.spool import effective_steps, read_spool, spool_path

NUM_KILLS, NUM_STEPS_LONG = 100, 1200
NUM_KILLS_SHORT, NUM_STEPS_SHORT = 3, 30
TWO_RANKS = ("--set", "cluster.num_processes_per_node=2")
AIMS = (".staging_*", ".staging_*/rank_*", ".staging_*/.manifest.json.new", "step_*/.manifest.json.new", ".removing_*")


class Storm:
    """One run under fire."""

    def __init__(self, run_file, seed):
        self.run_file, self.draw = run_file, random.Random(seed)
        self.run = RunDirectory(run_file.parent / "runs" / run_file.stem)
        self.process, self.victims = None, set()

    def launch(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launcher", "launch", str(self.run_file), *TWO_RANKS],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ranks(self):
        """Live ranks that were not killed yet, by pid and start time."""
        found = []
        for beat in read_heartbeats(self.run.heartbeats).values():
            key = (beat.pid, beat.create_time)
            if key not in self.victims and psutil.pid_exists(beat.pid) and beat.phase not in ("starting", "build"):
                found.append(key)
        return found

    def wait_for_ranks(self):
        """Wait until ranks train; relaunch where the supervisor is gone. False once the run is done."""
        deadline = time.monotonic() + 180
        while len(self.ranks()) < 2:
            if self.process.poll() is not None:
                if self.process.returncode == 0:
                    return False
                assert self.process.returncode == -signal.SIGKILL, self.log()
                self.launch()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return True

    def wait_for_aim(self):
        """Wait for a random while, or until the files of a save are in a chosen state."""
        aim = self.draw.choice((None, *AIMS))
        deadline = time.monotonic() + (self.draw.uniform(0.0, 1.5) if aim is None else 5.0)
        while time.monotonic() < deadline:
            if self.process.poll() is not None or (aim and list(self.run.checkpoints.glob(aim))):
                return
            time.sleep(0.0005 if aim else 0.01)

    def kill(self):
        """Kill a rank, mostly, or the supervisor or the agent between them. False if nothing is left to kill."""
        ranks = self.ranks()
        if not ranks:
            return False
        self.victims.update(ranks)
        pid, create_time = self.draw.choice(ranks)
        try:
            rank = psutil.Process(pid)
            if abs(rank.create_time() - create_time) > 2:
                return False
            choice = self.draw.random()
            if choice < 0.7:
                rank.kill()
            elif choice < 0.85:
                rank.parent().kill()
            else:
                os.kill(self.process.pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, AttributeError):
            return False
        return True

    def finish(self):
        while self.process.wait(timeout=240):
            assert self.process.returncode == -signal.SIGKILL, self.log()
            self.launch()

    def log(self):
        logs = sorted(self.run.path.glob("attempts/*/logs/rank_00000.err"))
        record = read_supervisor(self.run.supervisor)
        return f"{record}\n" + (logs[-1].read_text()[-3000:] if logs else "")


def losses(run):
    records = effective_steps(read_spool(spool_path(run.metrics)))
    return {record.metrics.step: record.metrics.loss for record in records}


def samples(run):
    """Sample ids by step, of the newest attempt that did the step."""
    newest = {}
    for path in sorted((run.metrics / "audit").glob("rank_*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            newest[values["step"], path.name] = values["sample_ids"]
    return newest


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("num_kills", "num_steps"),
    [(NUM_KILLS_SHORT, NUM_STEPS_SHORT), pytest.param(NUM_KILLS, NUM_STEPS_LONG, marks=pytest.mark.long)],
)
def test_a_run_killed_at_many_instants_is_the_unbroken_run(write_run, num_kills, num_steps):
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10_000))
    print(f"KILL_SEED={seed}")
    options = {
        "train": {"num_steps": num_steps, "precision": "fp32"},
        "checkpoint": {"interval_steps": 3, "keep_last": 2},
        "metrics": {"mlflow": False, "audit_samples": True},
        "supervision": {
            "process_group_timeout_seconds": 60.0,
            "first_backoff_seconds": 0.01,
            "max_backoff_seconds": 0.01,
            "max_attempts_without_progress": 10_000,
        },
    }
    unbroken = Storm(write_run("unbroken", **options), seed)
    unbroken.launch()
    unbroken.finish()

    storm = Storm(write_run("storm", **options), seed)
    storm.launch()
    num_done = 0
    while num_done < num_kills and storm.wait_for_ranks():
        storm.wait_for_aim()
        num_done += storm.kill()
    storm.finish()
    print(f"{num_done} kills, {len(list(storm.run.attempts.iterdir()))} attempts")
    assert num_done >= 2

    assert list_steps(storm.run.checkpoints) == list_steps(unbroken.run.checkpoints)
    last = [step_directory(one.run.checkpoints, num_steps) for one in (storm, unbroken)]
    assert compare_checkpoints(*last).equal
    assert losses(storm.run) == losses(unbroken.run) and len(losses(storm.run)) == num_steps
    assert samples(storm.run) == samples(unbroken.run)
    left = [path.name for path in storm.run.checkpoints.iterdir() if not path.name.startswith("step_")]
    assert left == ["latest"], "nothing half written or half removed is left"
    assert not any(psutil.pid_exists(pid) for pid, _ in storm.victims if is_ours(pid))


def is_ours(pid):
    """Whether a process of that number is a rank, and not a later one that got the same number."""
    try:
        return "llama_dist.train" in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False
