"""A run that is stopped in any phase saves, leaves in time, and goes on as if nothing had been. All of it real."""

import signal
import subprocess
import sys
import time

import pytest
from flaky_store import FlakyStore

from launcher.records import read_heartbeats
from launcher.status import read_status
from llama_dist.checkpoint.manifest import list_steps, read_manifest, step_directory
from llama_dist.config import RunDirectory
from llama_dist.metrics.spool import effective_steps, read_spool, spool_path

NUM_STEPS, GRACE_SECONDS = 60, 30
TWO_RANKS = ("--set", "cluster.num_processes_per_node=2")


class LiveRun:
    """A launch in a process of its own, and what it shows of itself."""

    def __init__(self, run_file, *settings):
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        self.directory = RunDirectory(run_file.parent / "runs" / run_file.stem)
        self.attempt = read_status(self.directory).attempt + 1 if self.directory.path.exists() else 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launcher", "launch", str(run_file), *TWO_RANKS, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until(self, is_so):
        """Wait for what a function of rank 0's heartbeat finds true."""
        deadline = time.monotonic() + 120
        while True:
            beat = read_heartbeats(self.directory.heartbeats).get(0)
            if beat and beat.attempt == self.attempt and is_so(beat):
                return beat.step
            assert time.monotonic() < deadline, beat
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.005)

    def stop(self):
        """Ask to stop; answers the output of a run that saved and left within its grace."""
        asked = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=GRACE_SECONDS + 60)
        assert self.process.returncode == 143, output
        assert time.monotonic() - asked < GRACE_SECONDS, output
        return output

    def finish(self):
        output, _ = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, output
        return output


@pytest.fixture
def write_stoppable(write_run, corpus, tmp_path):
    def write(name, source=None):
        cache = {"cache": {"directory": str(tmp_path / f"cache_{name}"), "max_bytes": 10**9}} if source else {}
        return write_run(
            name,
            data={
                "sources": [{"path": source or str(corpus / "data")}],
                "sequence_length_tokens": 64,
                "shuffle_window_bytes": 10**8,
                **cache,
            },
            train={"num_steps": NUM_STEPS, "precision": "fp32"},
            evaluation={"interval_steps": 10, "num_sequences": 64},
            supervision={"process_group_timeout_seconds": 60.0, "stop_grace_seconds": GRACE_SECONDS},
        )

    return write


def losses(run):
    records = effective_steps(read_spool(spool_path(run.metrics)))
    return {record.metrics.step: record.metrics.loss for record in records}


def newest(run):
    return max(list_steps(run.checkpoints), default=0)


def test_a_run_stopped_in_each_phase_is_the_unbroken_run(write_stoppable, corpus, tmp_path):
    unbroken = LiveRun(write_stoppable("unbroken"))
    unbroken.finish()
    with FlakyStore(corpus / "data") as server:
        run_file = write_stoppable("stopped", server.url)
        live = LiveRun(run_file)
        run = live.directory
        live.wait_until(lambda beat: beat.phase == "build")
        live.stop()
        assert newest(run) == 0, "there was nothing to save"

        live = LiveRun(run_file)
        step = live.wait_until(lambda beat: beat.phase == "train" and beat.step > 3)
        assert "saving now" in live.stop()
        assert newest(run) >= step

        live = LiveRun(run_file)
        step = live.wait_until(lambda beat: beat.phase == "evaluate")
        live.stop()
        assert newest(run) >= step

        live = LiveRun(run_file)
        live.wait_until(lambda _: list(run.checkpoints.glob(".staging_*")))
        live.stop()

        # A stalled store: a cache of its own, so that every shard must be fetched again.
        live = LiveRun(run_file, f"data.cache.directory={tmp_path / 'empty_cache'}")
        live.wait_until(lambda beat: beat.phase == "build")
        server.script = ["stall"] * 1000
        step = live.wait_until(lambda beat: beat.phase == "read")
        live.stop()
        assert newest(run) == step
        server.script = []

        LiveRun(run_file, f"data.cache.directory={tmp_path / 'cache_stopped'}").finish()
    assert losses(run) == losses(unbroken.directory)
    assert not list(run.checkpoints.glob(".staging_*"))


def kinds_of_checkpoints(run):
    return {read_manifest(step_directory(run.checkpoints, step)).kind for step in list_steps(run.checkpoints)}


def test_a_request_a_signal_and_the_clock_save_and_the_limit_saves_and_leaves(write_stoppable, llama_dist):
    run_file = write_stoppable("asked")
    live = LiveRun(run_file, "train.num_steps=100000", "checkpoint.interval_steps=100000", "checkpoint.keep_last=100")
    run = live.directory
    step = live.wait_until(lambda beat: beat.phase == "train" and beat.step > 3)
    asked = llama_dist("checkpoint", "now", run.path)
    assert asked.returncode == 0, asked.stderr
    (saved,) = list_steps(run.checkpoints)
    assert saved >= step and str(step_directory(run.checkpoints, saved)) in asked.stdout
    assert read_manifest(step_directory(run.checkpoints, saved)).kind == "asked"

    live.process.send_signal(signal.SIGUSR1)
    live.wait_until(lambda _: len(list_steps(run.checkpoints)) == 2)
    live.stop()

    long = ("train.num_steps=100000", "checkpoint.interval_steps=100000", "checkpoint.keep_last=100")
    live = LiveRun(run_file, *long, "checkpoint.interval_minutes=0.02")
    live.wait_until(lambda _: "clock" in kinds_of_checkpoints(run))
    live.stop()

    before = list_steps(run.checkpoints)[-1]
    live = LiveRun(run_file, *long, "supervision.wall_clock_limit_minutes=0.5")
    output, _ = live.process.communicate(timeout=120)
    assert live.process.returncode == 143, output
    assert "the wall-clock limit is near; newest checkpoint" in output
    newest = list_steps(run.checkpoints)[-1]
    assert newest > before and read_manifest(step_directory(run.checkpoints, newest)).kind == "stop"
    refused = llama_dist("checkpoint", "now", run.path)
    assert refused.returncode == 78 and "is not live (stopped)" in refused.stderr
