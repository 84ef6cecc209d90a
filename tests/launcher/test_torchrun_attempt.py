"""A run that torchrun supervises, as `status`, `stop`, `checkpoint now` and a second launch see it."""

import fcntl
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from launcher.console import Console
from launcher.errors import LiveRunError
from launcher.records import SupervisorRecord, process_is_alive, read_heartbeat, write_json, write_supervisor
from launcher.render import render_status
from launcher.run_lock import hold_lock_forever
from launcher.save_now import save_now
from launcher.status import read_status
from launcher.stop import stop_run
from llama_dist.checkpoint.manifest import step_directory
from llama_dist.config import RunDirectory
from llama_dist.config.run_life import begin_life, note_saved

HERE = os.uname().nodename

RANK = """
import signal, sys, time
from pathlib import Path
from llama_dist.config import RunDirectory
from llama_dist.runtime.exit_record import write_exit_record
from llama_dist.runtime.heartbeat import Heartbeat
run = RunDirectory(Path(sys.argv[1]))
def leave(*_):
    write_exit_record(run.exit_record(1, 0), rank=0, exit_code=143, reason="asked to stop: saved step 5", step=5)
    raise SystemExit(143)
signal.signal(signal.SIGTERM, leave)
Heartbeat(run.heartbeat(0), 1).beat(5, "train")
time.sleep(120)
"""
TORCHRUN = """
import subprocess, sys
restarts, rank, run, _ = sys.argv[1:]
for _ in range(1 + int(restarts)):
    with subprocess.Popen([sys.executable, "-c", rank, run]) as child:
        try:
            child.wait()
        finally:
            child.kill()
"""


@pytest.fixture
def run(fake_run, tmp_path):
    run = RunDirectory(tmp_path / "runs" / "torchrun")
    (run.attempt(1) / "exits").mkdir(parents=True)
    run.attempt_config(1).write_text(fake_run.run_file.read_text())
    write_json(run.attempt(1) / "plan.json", {"world_size": 1})
    write_json(run.attempt(1) / "torchrun.json", {"token": "x", "host": HERE, "pid": 1, "create_time": 5.0})
    return run


@pytest.fixture
def start(run):
    """Start what stands for torchrun, with one rank; answers it once the rank trains."""
    started = []

    def torchrun(restarts=0):
        process = subprocess.Popen([sys.executable, "-c", TORCHRUN, str(restarts), RANK, str(run.path), "torchrun"])
        started.append(process)
        wait_until(lambda: read_heartbeat(run.heartbeat(0)))
        return process

    yield torchrun
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
        process.wait(10)


def wait_until(is_met):
    deadline = time.monotonic() + 60
    while not is_met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def beat(run, host, age=0.0, rank=0):
    run.heartbeats.mkdir(exist_ok=True)
    values = {"pid": 1, "create_time": 5.0, "host": host, "attempt": 1, "step": 5, "phase": "train"}
    write_json(run.heartbeat(rank), {**values, "time": time.time() - age})


def end(run, rank, code, reason, after=0.0):
    values = {"rank": rank, "exit_code": code, "reason": reason, "step": 5, "host": HERE, "time": time.time() + after}
    write_json(run.exit_record(1, rank), values)


def test_a_live_run_of_torchruns_is_running_and_no_supervisor_is_named(run, start):
    write_supervisor(run.supervisor, SupervisorRecord(1, 2.0, HERE, 0, "failed", 75, "a launch before", time.time()))
    start()
    status = read_status(run)
    assert (status.state, status.exit_code, status.supervisor_pid) == ("running", None, None)
    assert status.reason == f"started by torchrun, which supervises it, on {HERE}"


def test_rank_0_that_has_not_beaten_yet_is_alive_as_well(run):
    process = psutil.Process()
    begun = {"token": "x", "host": HERE, "pid": process.pid, "create_time": process.create_time()}
    write_json(run.attempt(1) / "torchrun.json", begun)
    assert read_status(run).state == "running"


@pytest.mark.parametrize("restarts", [0, 3])
def test_a_stop_lets_the_ranks_save_and_ends_a_torchrun_that_would_start_them_again(run, start, restarts, capsys):
    process = start(restarts)
    threading.Thread(target=process.wait, daemon=True).start()  # so that no zombie is left
    stop_run(run, Console())
    assert process.wait(10) is not None
    assert "asked 1 rank(s) of torchrun to save and leave" in capsys.readouterr().out
    status = read_status(run)
    assert (status.state, status.exit_code) == ("stopped", 143)
    assert status.reason == "started by torchrun: asked to stop: saved step 5"


def test_a_stop_on_a_host_without_a_rank_is_refused_and_names_theirs(run):
    beat(run, "node7")
    with pytest.raises(LiveRunError, match="started by torchrun, which supervises it, on node7, and this is"):
        stop_run(run, Console())
    assert LiveRunError.exit_code == 78


def test_a_checkpoint_can_be_asked_of_a_run_of_torchruns(run, start):
    start()
    begin_life(run)

    def save():
        wait_until(run.save_request.exists)
        note_saved(run, 5)
        run.save_request.unlink()

    rank = threading.Thread(target=save)
    rank.start()
    assert save_now(run, 30) == step_directory(run.checkpoints, 5)
    rank.join(10)


def test_a_second_launch_is_told_that_torchrun_runs_it(run, start):
    start()
    descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(LiveRunError, match=r"is live \(attempt 1, started by torchrun.*llama-dist stop"):
            hold_lock_forever(run, 60)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("ends", "state", "code", "reason"),
    [
        ([(0, "reached the last step"), (0, "reached the last step")], "done", 0, "every rank reached"),
        ([(143, "asked to stop"), (143, "asked to stop")], "stopped", 143, "asked to stop"),
        ([(75, "lost a peer"), (78, "trace\nbad data")], "failed", 78, "rank 1 ended with 78: bad data"),
        ([(75, "lost a peer"), None], "failed", 75, "rank(s) 1 ended without a word"),
        ([None, None], "lost", None, "gone without a word"),
    ],
)
def test_once_over_the_state_is_told_from_what_the_ranks_said(run, ends, state, code, reason):
    write_json(run.attempt(1) / "plan.json", {"world_size": 2})
    for rank, said in enumerate(ends):
        beat(run, HERE, rank=rank)
        if said:
            end(run, rank, *said)
    status = read_status(run)
    assert (status.state, status.exit_code) == (state, code)
    assert reason in status.reason


def test_ranks_of_another_host_are_taken_for_lost_once_they_are_silent(run):
    beat(run, "node7", age=601)
    assert read_status(run).state == "lost"


def test_a_supervisor_that_took_the_run_over_speaks_for_it(run, start):
    start()
    process = psutil.Process()
    record = SupervisorRecord(process.pid, process.create_time(), HERE, 1, "backing_off", None, "", time.time())
    write_supervisor(run.supervisor, record)
    assert read_status(run).state == "backing_off"
    assert process_is_alive(process.pid, process.create_time())
    assert f"supervisor  pid {process.pid}" in render_status(read_status(run))
