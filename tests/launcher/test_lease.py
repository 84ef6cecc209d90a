"""Who holds a run, over hosts. Another host is a process in namespaces of its own: no pid of it means anything here."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launcher.errors import LeaseLostError, LiveRunError
from launcher.lease import acquire_lease, is_live
from launcher.lease_record import create_lease, lease_path, new_record, newest_number, read_lease, rewrite_lease
from launcher.records import read_record
from launcher.run_lock import live_owner, lock_run
from llama_dist.config import RunDirectory

ROOT = Path(__file__).parent.parent.parent
HOLDER = """
import os, sys, time
from pathlib import Path
from launcher.lease import acquire_lease
from llama_dist.config import RunDirectory
if sys.argv[3]:
    now = time.time
    time.time = lambda: now() + float(sys.argv[3])
lease = acquire_lease(RunDirectory(Path(sys.argv[1])), float(sys.argv[2]))
print("held", flush=True)
while not lease.is_lost:
    time.sleep(0.01)
print(lease.lost_because, flush=True)
os._exit(75)
"""
ELSEWHERE = ("unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a host of its own takes root")


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


@pytest.fixture
def start_holder(run):
    """Start a process that holds the run, here or on another host; answers it once it does."""
    started = []

    def start(seconds, *, elsewhere=False, clock_ahead=""):
        command = [sys.executable, "-c", HOLDER, str(run.path), str(seconds), str(clock_ahead)]
        if elsewhere:
            renamed = "import os, socket, sys; socket.sethostname('elsewhere'); os.execv(sys.argv[1], sys.argv[1:])"
            command = [*ELSEWHERE, sys.executable, "-c", renamed, *command]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        process.stdout.close()


def acquire(run, seconds=60.0, **options):
    return acquire_lease(run, seconds, **options)


def test_a_run_has_one_owner_and_a_released_one_is_free_at_once(run):
    lease = acquire(run)
    with pytest.raises(LiveRunError, match="is live"):
        acquire_lease(run, 0.5)
    assert live_owner(run).pid == os.getpid()
    lease.release()
    assert live_owner(run) is None
    acquire(run).release()
    assert [path.name for path in sorted(run.leases.iterdir())] == ["00000002.json"], "older ones are removed"


@needs_root
def test_a_run_held_on_another_host_is_refused_with_both_sides_long_before_it_could_expire(run, start_holder):
    start_holder(6, elsewhere=True)
    began = time.monotonic()
    with pytest.raises(LiveRunError) as refused:
        acquire(run)
    assert time.monotonic() - began < 4
    for part in ("on elsewhere, attempt 0, since ", f"this one, pid {os.getpid()} on ", "llama-dist stop"):
        assert part in str(refused.value)


@needs_root
def test_a_frozen_owner_on_another_host_is_expired_by_our_clock_and_has_lost_the_run_when_it_comes_back(
    run, start_holder
):
    holder = start_holder(2, elsewhere=True)
    (inner,) = psutil.Process(holder.pid).children()
    inner.send_signal(signal.SIGSTOP)
    told, began = [], time.monotonic()
    with lock_run(run, 60, told.append) as lease:
        assert time.monotonic() - began >= 2
        assert "elsewhere" in told[0] and "taking the run over" in told[1]
        before = {path: path.read_bytes() for path in run.leases.iterdir()}
        inner.send_signal(signal.SIGCONT)
        lost_because = holder.stdout.readline()
        assert "could not be renewed" in lost_because or "taken over by" in lost_because
        assert holder.wait(10) == 75
        lease.check()
        assert {path: path.read_bytes() for path in run.leases.iterdir() if path in before} == before


@needs_root
@pytest.mark.parametrize("clock_ahead", [86_400, -86_400])
def test_clocks_that_differ_by_a_day_change_nothing(run, start_holder, clock_ahead):
    start_holder(6, elsewhere=True, clock_ahead=clock_ahead)
    assert is_live(run, read_lease(run))
    with pytest.raises(LiveRunError):
        acquire(run)


def test_an_owner_of_this_host_that_was_killed_is_expired_at_once(run, start_holder):
    holder = start_holder(60)
    assert live_owner(run).pid == holder.pid
    holder.kill()
    holder.wait(10)
    assert live_owner(run) is None
    began = time.monotonic()
    acquire(run).release()
    assert time.monotonic() - began < 5


def test_of_many_that_take_an_expired_lease_one_wins(run):
    create_lease(run, 1, replace(new_record(0.3), place="another kernel"))
    outcomes = []

    def take(_number):
        try:
            outcomes.append(acquire_lease(run, 30))
        except LiveRunError:
            outcomes.append(None)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (winner,) = [lease for lease in outcomes if lease]
    assert len(outcomes) == 8
    winner.check()
    winner.release()


def test_an_owner_that_finds_a_newer_lease_has_lost_it_and_leaves_the_newer_one_alone(run):
    lease = acquire(run)
    create_lease(run, 2, replace(new_record(60), host="node7", place="another kernel"))
    content = lease_path(run, 2).read_bytes()
    with pytest.raises(LeaseLostError, match=r"taken over by supervisor pid \d+ on node7"):
        lease.check()
    assert lease.is_lost and LeaseLostError.exit_code == 75
    lease.release()
    assert [path.read_bytes() for path in run.leases.iterdir()] == [content]


def test_an_owner_whose_run_directory_was_deleted_says_so_and_names_nobody(run):
    lease = acquire(run)
    shutil.rmtree(run.leases)
    with pytest.raises(LeaseLostError, match=r"its lease is gone from .*was the run directory deleted") as lost:
        lease.check()
    assert "taken over" not in str(lost.value)
    lease.release()
    assert not run.leases.exists()


def test_an_owner_whose_disk_refuses_has_lost_the_run_before_another_may_take_it(run, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("launcher.lease.rewrite_lease", refuse)
    lease, began = acquire(run, 1.0), time.monotonic()
    while not lease.is_lost:
        time.sleep(0.01)
        assert time.monotonic() - began < 10
    assert time.monotonic() - began >= 0.75
    assert "could not be renewed for 1 s" in lease.lost_because
    with pytest.raises(LeaseLostError):
        lease.check()
    lease.release()


def test_a_process_that_does_not_see_in_time_that_it_lost_the_run_is_ended(run, monkeypatch):
    monkeypatch.setattr("launcher.lease._LONGEST_REACTION_SECONDS", 0.05)
    ended = threading.Event()
    lease = acquire(run, leave=ended.set)
    create_lease(run, 2, new_record(60))
    with pytest.raises(LeaseLostError):
        lease.check()
    assert ended.wait(10)
    lease.release()


def test_a_hung_owner_of_a_short_lease_is_ended_before_another_may_begin(run, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("launcher.lease.rewrite_lease", refuse)
    ended, began = threading.Event(), time.monotonic()
    lease = acquire(run, 4.0, leave=ended.set)
    assert ended.wait(20)
    assert time.monotonic() - began < 4.0
    lease.release()


@pytest.mark.parametrize("content", ["", '{"token": 1', "[]", '{"token": "x", "host": "y"}'])
def test_a_damaged_lease_keeps_nobody_out_once_a_lease_has_passed(run, content):
    run.leases.mkdir()
    lease_path(run, 4).write_text(content)
    assert read_lease(run) is None
    told, began = [], time.monotonic()
    lease = acquire(run, 1.0, tell=told.append)
    assert time.monotonic() - began >= 1.0
    assert "00000004.json cannot be read: waiting up to 1 s" in told[0]
    lease.release()
    assert newest_number(run) == 5


def test_a_live_lease_that_the_disk_refuses_to_read_for_a_moment_is_not_taken_over(run, monkeypatch):
    create_lease(run, 1, replace(new_record(6), host="node7", place="another kernel"))
    fails_until = time.monotonic() + 0.5
    renewing = threading.Timer(1.5, rewrite_lease, (run, 1, read_lease(run).renewed_now(attempt=3)))
    renewing.start()

    def read(record_type, path):
        return None if time.monotonic() < fails_until else read_record(record_type, path)

    monkeypatch.setattr("launcher.lease_record.read_record", read)
    with pytest.raises(LiveRunError, match="on node7, attempt 3"):
        acquire(run)
    assert newest_number(run) == 1
    renewing.join()


def test_a_lease_that_is_not_renewed_is_seen_as_such_and_a_renewed_one_is_not(run):
    record = replace(new_record(0.6), place="another kernel", renewed=0.0)
    create_lease(run, 1, record)
    assert not is_live(run, record)
    renewing = threading.Timer(0.05, rewrite_lease, (run, 1, record.renewed_now(attempt=3)))
    renewing.start()
    assert is_live(run, record)
    renewing.join()
    assert read_lease(run).attempt == 3
