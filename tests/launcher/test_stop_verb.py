"""Stops that come through the run's directory, from this host and from another one."""

import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from test_supervision import ENDLESS, live_ranks, wait_for_ranks, wait_until

from launcher.console import Console
from launcher.errors import LiveRunError
from launcher.lease import acquire_lease
from launcher.lease_record import create_lease, new_record, newest_number, read_lease, rewrite_lease
from launcher.records import SupervisorRecord, write_supervisor
from launcher.run_lookup import find_run
from launcher.status import read_status
from launcher.stop import stop_run
from launcher.stop_request import StopRequest, request_stop
from llama_dist.config import RunDirectory


@pytest.fixture
def elsewhere(tmp_path):
    """A run whose files say that it is supervised on another host."""
    run = RunDirectory(tmp_path)
    run.attempt(1).mkdir(parents=True)
    run.config.write_text("name: x\n")
    record = SupervisorRecord(1, 2.0, "node7", 1, "running", None, "", time.time())
    write_supervisor(run.supervisor, record)
    create_lease(run, 1, replace(new_record(0.6), host="node7", place="another kernel"))
    return run


class Renewing(threading.Thread):
    """Stands for the supervisor of the other host: renews, and takes up a stop where `obeys`."""

    def __init__(self, run, *, obeys):
        super().__init__(daemon=True)
        self.run_directory, self.obeys, self.taken = run, obeys, StopRequest(run.stop_request)
        self.ended = threading.Event()
        self.start()

    def run(self):
        record = read_lease(self.run_directory)
        while not self.ended.wait(0.05):
            record = record.renewed_now(1)
            self.taken.look()
            if self.obeys and self.taken.is_asked:
                record, ended = replace(record, is_released=True), "stopped"
                state = SupervisorRecord(1, 2.0, "node7", 1, ended, 143, "asked to stop", time.time())
                write_supervisor(self.run_directory.supervisor, state)
                self.ended.set()
            rewrite_lease(self.run_directory, 1, record)


def test_a_stop_without_a_save_ends_the_ranks_and_keeps_the_newest_checkpoint(fake_run, capsys):
    fake_run.script({**ENDLESS, "save_every": 1_000_000, "ranks": {"1": {"hang_at": 6}}})
    supervisor = fake_run.start()
    fake_run.wait_for("heartbeats/rank_00001.json", phase="hang")
    run = find_run(str(fake_run.run_directory), Path())
    began = time.monotonic()
    stop_run(run, Console(), now=True)
    assert time.monotonic() - began < 20, "the grace for a save is 120 s"
    output, _ = supervisor.communicate(timeout=10)
    assert supervisor.returncode == 143, output
    assert "ending the ranks without waiting" in output and "rank(s) save and end" not in output
    assert not live_ranks(fake_run)
    assert "asked supervisor" in capsys.readouterr().out
    status = read_status(run)
    assert (status.state, status.exit_code, status.newest_checkpoint_step) == ("stopped", 143, None)
    assert not run.stop_request.exists()


def test_a_supervisor_whose_run_was_taken_over_ends_its_ranks_and_writes_nothing_more(fake_run):
    fake_run.script(ENDLESS)
    supervisor = fake_run.start()
    wait_for_ranks(fake_run)
    run = RunDirectory(fake_run.run_directory)
    create_lease(run, newest_number(run) + 1, replace(new_record(60), host="node7", place="another kernel"))
    write_supervisor(run.supervisor, SupervisorRecord(1, 2.0, "node7", 2, "running", None, "", 5.0))
    before = run.supervisor.read_bytes()
    output, _ = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 75, output
    assert "was taken over by supervisor" in output and "node7" in output and "Traceback" not in output
    wait_until(lambda: not live_ranks(fake_run))
    assert run.supervisor.read_bytes() == before and not run.attempt_end(1).exists()
    assert read_lease(run).host == "node7"


@pytest.mark.parametrize("now", [False, True])
def test_a_run_of_another_host_is_stopped_through_its_directory(elsewhere, capsys, now, monkeypatch):
    monkeypatch.setattr("launcher.stop._grace_seconds", lambda _: 5.0)
    supervisor = Renewing(elsewhere, obeys=True)
    stop_run(elsewhere, Console(), now=now)
    assert supervisor.taken.is_urgent == now
    assert ("--now" in supervisor.taken.signal_name) == now and os.uname().nodename in supervisor.taken.signal_name
    output = capsys.readouterr().out
    assert "asked supervisor" in output and "on host node7" in output
    assert "stopped: asked to stop" in output


def test_a_supervisor_elsewhere_that_does_not_end_is_told_and_the_request_is_withdrawn(elsewhere, monkeypatch):
    monkeypatch.setattr("launcher.stop._SUPERVISOR_SECONDS", 0.3)
    supervisor = Renewing(elsewhere, obeys=False)
    supervisor.taken.look = lambda: None
    with pytest.raises(LiveRunError, match="on host node7 renews its lease and does not end"):
        stop_run(elsewhere, Console(), now=True)
    assert not elsewhere.stop_request.exists()
    supervisor.ended.set()
    supervisor.join()


def test_status_tells_a_live_supervisor_elsewhere_from_one_that_went_silent(elsewhere):
    status = read_status(elsewhere)
    assert (status.state, status.supervisor_host) == ("running", "node7")
    rewrite_lease(elsewhere, 1, replace(read_lease(elsewhere), renewed=0.0))
    status = read_status(elsewhere)
    assert (status.state, status.supervisor_host) == ("lost", None)
    assert "host node7 does not renew its lease any more" in status.reason
    renewing = Renewing(elsewhere, obeys=False)
    assert read_status(elsewhere).state == "running"
    renewing.ended.set()
    renewing.join()


@pytest.mark.parametrize("now", [False, True])
def test_a_stop_that_comes_as_the_supervisor_ends_by_itself_tells_how_it_ended(tmp_path, monkeypatch, capsys, now):
    run = RunDirectory(tmp_path)
    here = psutil.Process()
    record = SupervisorRecord(here.pid, here.create_time(), socket.gethostname(), 0, "running", None, "", time.time())
    write_supervisor(run.supervisor, record)

    def has_ended(pid):
        ended = replace(record, state="done", exit_code=0, reason="the last step")
        write_supervisor(run.supervisor, ended)
        raise psutil.NoSuchProcess(pid)

    asked = SimpleNamespace(Process=has_ended, NoSuchProcess=psutil.NoSuchProcess)
    monkeypatch.setattr("launcher.stop.psutil", asked)
    monkeypatch.setattr("launcher.stop.process_is_alive", lambda *_: False)
    if now:
        run.stop_request.mkdir()  # the disk takes no file: it is asked by signals
    stop_run(run, Console(), now=now)
    assert "done: the last step" in capsys.readouterr().out


def test_a_stop_of_a_run_that_is_not_live_asks_nobody(elsewhere, capsys):
    rewrite_lease(elsewhere, 1, replace(read_lease(elsewhere), is_released=True))
    stop_run(elsewhere, Console(), now=True)
    assert "is not live (lost): nothing to stop" in capsys.readouterr().out
    assert not elsewhere.stop_request.exists()


@pytest.mark.parametrize(
    ("content", "is_urgent"),
    [
        ('{"now": true, "save": false, "host": "node1"}', True),
        ('{"now": false, "save": true, "host": "node1"}', False),
        ("", False),
        ("[1]", False),
        ('{"now": "yes", "host": "\\u001b[31m$(touch canary)"}', False),
    ],
)
def test_a_request_is_taken_up_once_whatever_it_holds(tmp_path, content, is_urgent):
    path = tmp_path / "stop_request.json"
    stop = StopRequest(path)
    stop.look()
    assert not stop.is_asked
    path.write_text(content)
    assert stop.wait(5) and stop.is_urgent == is_urgent and not path.exists()
    assert stop.count == 1 and "\x1b" not in stop.signal_name and "canary" not in stop.signal_name


def test_a_request_that_was_left_over_stops_no_later_launch(fake_run):
    fake_run.script({"steps": 3})
    run = RunDirectory(fake_run.run_directory)
    run.path.mkdir(parents=True)
    request_stop(run.stop_request, now=True)
    assert json.loads(run.stop_request.read_text())["save"] is False
    code, output = fake_run.launch()
    assert code == 0, output


def test_a_second_signal_is_urgent_and_a_first_one_is_not(monkeypatch):
    now = 100.0
    monkeypatch.setattr("launcher.stop_request.time.monotonic", lambda: now)
    stop = StopRequest()
    stop.ask(signal.SIGTERM)
    assert stop.is_asked and not stop.is_urgent
    now += 1.5
    stop.ask(signal.SIGINT)
    assert stop.is_urgent


def test_a_launch_is_refused_while_another_process_holds_the_lease_alone(fake_run):
    """Where the file server shares no locks between hosts, the lease alone keeps the second one out."""
    run = RunDirectory(fake_run.run_directory)
    run.path.mkdir(parents=True)
    lease = acquire_lease(run, 6)
    try:
        code, output = fake_run.launch()
    finally:
        lease.release()
    assert code == 78
    assert f"run `fake` is live (supervisor pid {os.getpid()} on " in output
