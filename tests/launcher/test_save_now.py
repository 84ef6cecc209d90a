"""`checkpoint now` answers what the run saved since it was asked, and nothing that merely lies there."""

import json
import os
import socket
import threading
import time

import psutil
import pytest
from fake_backend import save

from launcher.records import SupervisorRecord, write_supervisor
from launcher.save_now import save_now
from llama_dist.checkpoint.manifest import step_directory
from llama_dist.config import RunDirectory
from llama_dist.config.run_life import begin_life, note_saved


@pytest.fixture
def run(tmp_path):
    """A live run at step 110 that went back past a damaged checkpoint of step 120."""
    run = RunDirectory(tmp_path / "x")
    for directory in (run.heartbeats, run.attempt(1) / "logs"):
        directory.mkdir(parents=True)
    me = psutil.Process()
    record = SupervisorRecord(me.pid, me.create_time(), socket.gethostname(), 1, "running", None, "", time.time())
    write_supervisor(run.supervisor, record)
    beat = {"pid": os.getpid(), "create_time": me.create_time(), "host": socket.gethostname(), "attempt": 1}
    run.heartbeat(0).write_text(json.dumps(beat | {"step": 110, "phase": "train", "time": time.time()}))
    save(run, 100), save(run, 120)
    begin_life(run)
    note_saved(run, 100)
    return run


def answer_request(run, step):
    """Take the request, save in a while, and say so: as a rank does."""

    def act():
        while not run.save_request.exists():
            time.sleep(0.005)
        run.save_request.unlink()
        time.sleep(0.3)
        save(run, step)
        note_saved(run, step)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_damaged_later_checkpoint_is_not_taken_for_the_answer(run):
    thread = answer_request(run, 111)
    assert save_now(run, 30) == step_directory(run.checkpoints, 111)
    thread.join()


def test_a_step_that_was_saved_just_before_is_the_answer(run):
    save(run, 110), note_saved(run, 110)
    thread = threading.Thread(target=lambda: take(run))
    thread.start()
    assert save_now(run, 30) == step_directory(run.checkpoints, 110)
    thread.join()


def take(run):
    while not run.save_request.exists():
        time.sleep(0.005)
    run.save_request.unlink()
