import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from launcher.errors import LiveRunError
from launcher.plan import tied_command
from launcher.records import write_json
from launcher.run_lock import lock_run
from launcher.stop_request import stop_on_signals
from launcher.tied import PARENT_VARIABLE
from llama_dist.config import RunDirectory


def environment(parent):
    return {PARENT_VARIABLE: str(parent), "RANK": "3"}


def test_a_tied_process_becomes_its_command_with_its_output_in_the_ranks_log(tmp_path):
    program = f"import os, sys; print(os.getpid(), os.environ[{PARENT_VARIABLE!r}]); print('bad', file=sys.stderr)"
    command = tied_command(tmp_path, (sys.executable, "-c", program))
    process = subprocess.Popen(command, env=environment(os.getpid()), stdout=subprocess.PIPE)
    assert process.communicate(timeout=20)[0] == b""
    assert process.returncode == 0
    # The same pid through exec: it is the parent that the command's own children must be tied to.
    assert (tmp_path / "rank_00003.out").read_text().split() == [str(process.pid)] * 2
    assert (tmp_path / "rank_00003.err").read_text() == "bad\n"


def test_a_chain_of_tied_processes_ends_with_its_head():
    sleeper = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
    inner = tied_command(None, sleeper)
    middle = f"import json, subprocess, sys; subprocess.run(json.loads({json.dumps(json.dumps(inner))}))"
    outer = tied_command(None, (sys.executable, "-c", middle))
    head_program = (
        f"import json, os, subprocess; os.environ[{PARENT_VARIABLE!r}] = str(os.getpid()); "
        f"subprocess.run(json.loads({json.dumps(json.dumps(outer))}))"
    )
    head = subprocess.Popen([sys.executable, "-c", head_program], stdout=subprocess.PIPE, text=True)
    assert head.stdout.readline() == "up\n"
    children = psutil.Process(head.pid).children(recursive=True)
    assert len(children) == 2
    head.send_signal(signal.SIGKILL)
    head.wait(10)
    head.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_process_whose_parent_is_gone_already_does_not_start(tmp_path):
    marker = tmp_path / "started"
    command = tied_command(None, (sys.executable, "-c", f"open({str(marker)!r}, 'w')"))
    wrong_parent = environment(os.getpid() + 1)
    done = subprocess.run(command, check=False, env=wrong_parent, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert "ended before its child began" in done.stderr
    assert not marker.exists()


def test_a_lock_has_one_holder_and_goes_with_it(tmp_path):
    run = RunDirectory(tmp_path)
    with lock_run(run, 60), pytest.raises(LiveRunError, match="is live"), lock_run(run, 60):
        pass
    with lock_run(run, 60):
        pass


def test_a_rank_left_over_from_a_dead_supervisor_keeps_a_new_one_out(tmp_path, monkeypatch):
    monkeypatch.setattr("launcher.run_lock._RANKS_END_SECONDS", 0.2)
    run = RunDirectory(tmp_path)
    run.heartbeats.mkdir()
    leftover = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        beat = {"pid": leftover.pid, "create_time": psutil.Process(leftover.pid).create_time()}
        place = {"host": os.uname().nodename, "attempt": 1, "step": 5, "phase": "save", "time": time.time()}
        write_json(run.heartbeat(0), beat | place)
        with pytest.raises(LiveRunError, match=str(leftover.pid)), lock_run(run, 60):
            pass
    finally:
        leftover.kill()
        leftover.wait(10)
    with lock_run(run, 60):
        pass


def test_signals_become_a_request_and_are_given_back_after(monkeypatch):
    former = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    now = 100.0
    monkeypatch.setattr("launcher.stop_request.time.monotonic", lambda: now)
    with stop_on_signals() as stop:
        assert not stop.wait(0) and not stop.take_save()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.wait(0)
        assert (stop.count, stop.signal_name) == (1, "SIGTERM"), "an echo within a second is the same wish"
        now += 1.5
        signal.raise_signal(signal.SIGINT)
        assert (stop.count, stop.signal_name) == (2, "SIGINT")
        signal.raise_signal(signal.SIGUSR1)
        assert stop.take_save() and not stop.take_save()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == former
