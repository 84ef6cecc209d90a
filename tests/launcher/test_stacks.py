"""Stacks of real processes: of one that holds the interpreter's lock, of one that is stopped, of one that is deaf."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest

from launcher.local_ranks import read_local_beats
from launcher.records import Heartbeat, process_state, write_json
from launcher.stack_text import read_standing
from launcher.stacks import NO_ANSWER, collect_stacks

LISTENING = """
import ctypes, sys, time
from pathlib import Path
from llama_dist.runtime.stacks import dump_stacks_on_signal

def hold_the_lock():
    print("up", flush=True)
    while True:  # a signal ends a sleep
        ctypes.PyDLL(None).sleep(60)

def wait():
    print("up", flush=True)
    time.sleep(60)

dump_stacks_on_signal(Path(sys.argv[1]))
{call}()
"""
DEAF = "import signal, time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def start(tmp_path):
    """Start a program as a rank; answers its process and what its heartbeat would say."""
    started = []

    def run(program, rank=0):
        command = [sys.executable, "-c", program, str(tmp_path / "stacks" / f"rank_{rank:05d}.txt")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "up\n"
        created = psutil.Process(process.pid).create_time()
        return process, Heartbeat(process.pid, created, "node1", 1, 5, "train", time.time())

    yield run
    for process in started:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_a_process_that_holds_the_interpreters_lock_says_where(start, tmp_path):
    ranks = {rank: start(LISTENING.format(call=call), rank)[1] for rank, call in enumerate(["hold_the_lock", "wait"])}
    began = time.monotonic()
    texts = collect_stacks(ranks, tmp_path / "stacks", 5.0)
    assert time.monotonic() - began < 2
    assert "in hold_the_lock" in texts[0] and "in wait" in texts[1]
    assert read_standing(texts[0]).innermost.function == "hold_the_lock"
    assert stat.S_IMODE((tmp_path / "stacks" / "rank_00000.txt").stat().st_mode) == 0o600
    again = collect_stacks(ranks, tmp_path / "stacks", 5.0)
    assert again[0].count("hold_the_lock") == 1, "what it said before is not told again"


def test_a_stopped_process_is_looked_at_from_outside_and_goes_on_later(start, tmp_path):
    process, beat = start(LISTENING.format(call="wait"))
    os.kill(process.pid, signal.SIGSTOP)
    while process_state(process.pid, beat.create_time) != "T":
        time.sleep(0.01)
    text = collect_stacks({0: beat}, tmp_path / "stacks", 10.0)[0]
    assert text.startswith(f"{NO_ANSWER}: process {process.pid} is in state T")
    assert "syscall" in text
    if shutil.which("py-spy"):
        assert read_standing(text).innermost.function == "wait"
    os.kill(process.pid, signal.SIGCONT)
    assert "in wait" in collect_stacks({0: beat}, tmp_path / "stacks", 5.0)[0]


def test_a_process_that_does_not_listen_is_not_ended_by_the_question(start, tmp_path):
    process, beat = start(DEAF)
    assert collect_stacks({0: beat}, tmp_path / "stacks", 1.0)[0].startswith(NO_ANSWER)
    assert process.poll() is None


def test_a_process_that_got_the_pid_of_a_rank_is_left_alone(start, tmp_path):
    process, beat = start(LISTENING.format(call="wait"))
    stranger = Heartbeat(beat.pid, beat.create_time - 100, "node1", 1, 5, "train", time.time())
    assert collect_stacks({0: stranger}, tmp_path / "stacks", 0.5)[0] == (
        f"{NO_ANSWER}: process {process.pid} is gone\n"
    )
    assert not (tmp_path / "stacks" / "rank_00000.txt").read_text()


def test_a_beat_carries_what_its_process_does_now_and_only_of_this_attempt_and_host(start, tmp_path):
    process, beat = start(DEAF)
    place = {"pid": process.pid, "create_time": beat.create_time, "host": "node1", "attempt": 2, "step": 5}
    late = time.time() - 30
    for rank, changes in enumerate([{"micro_batch": 3}, {"attempt": 1}, {"host": "node2"}, {"create_time": 1.0}]):
        write_json(tmp_path / f"rank_{rank:05d}.json", {**place, "phase": "train", "time": late, **changes})
    beats = read_local_beats(tmp_path, 2, "node1")
    assert sorted(beats) == [0, 3]
    assert (beats[0].step, beats[0].micro_batch) == (5, 3) and beats[0].process_state in "RS"
    assert 30 <= beats[0].age_seconds < 40
    assert (beats[3].micro_batch, beats[3].process_state) == (0, ""), "a file from before micro-batches; a gone process"
    assert sorted(read_local_beats(tmp_path, 2, "node1", ranks=[0, 9])) == [0]
    os.kill(process.pid, signal.SIGSTOP)
    while read_local_beats(tmp_path, 2, "node1")[0].process_state != "T":
        time.sleep(0.01)
