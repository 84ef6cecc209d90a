import dataclasses
import json
import os
import stat
import time

import psutil
import pytest

from launcher.agent_log import parse_agent_log, read_tail
from launcher.console import Console, Follower
from launcher.records import (
    SupervisorRecord,
    process_is_alive,
    read_exit_records,
    read_heartbeats,
    read_json,
    read_supervisor,
    write_json,
    write_supervisor,
)
from launcher.render import render_status
from launcher.run_lookup import find_run
from launcher.status import last_metrics, read_status
from llama_dist.config import ConfigError, RunDirectory

AGENT_LOG = """
W1123 18:57:40.643000 4741 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 4776 closing signal SIGTERM
W1123 18:58:10.700000 4741 torch/distributed/elastic/multiprocessing/api.py:1051] Unable to shutdown process 4778 via 15, forcefully exiting via 9
Failures:
[1]:
  time      : 2026-11-23_18:57:40
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : 75 (pid: 4776)\x20
  error_file: <N/A>
[2]:
  time      : 2026-11-23_18:57:40
  host      : localhost
  rank      : 2 (local_rank: 2)
  exitcode  : -9 (pid: 4778)  (SIGKILL)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-23_18:57:40
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4777)  (SIGKILL)
"""  # noqa: E501


def test_the_agents_log_tells_each_ranks_status_and_the_first_to_fail():
    failures = parse_agent_log(AGENT_LOG)
    assert failures.statuses[0] == 75
    assert failures.statuses[1] == -9
    assert failures.first_failed_rank == 1


def test_a_rank_that_the_agent_itself_killed_counts_as_terminated():
    assert parse_agent_log(AGENT_LOG).statuses[2] == -15


def test_an_unknown_log_has_no_failures():
    failures = parse_agent_log("torchrun 9.9 says goodbye")
    assert (failures.statuses, failures.first_failed_rank) == ({}, None)


def record_of(pid, create_time, state="running"):
    return SupervisorRecord(pid, create_time, os.uname().nodename, 1, state, None, "", time.time())


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "runs" / "fake")
    for path in (directory.heartbeats, directory.attempt(1) / "exits", directory.metrics):
        path.mkdir(parents=True)
    directory.config.write_text("name: fake\n")
    return directory


def test_a_supervisor_record_reads_back_and_is_private(run):
    record = record_of(1, 2.0)
    write_supervisor(run.supervisor, record)
    assert read_supervisor(run.supervisor) == record
    assert stat.S_IMODE(run.supervisor.stat().st_mode) == 0o600
    assert set(read_json(run.supervisor)) == {
        *("pid", "create_time", "host", "attempt", "state", "exit_code", "reason", "updated")
    }


@pytest.mark.parametrize("text", ["", '{"pid": 1', "[]", '{"pid": 1}', '{"pid": "x", "create_time": 0}'])
def test_a_half_written_record_is_absent_not_an_error(run, text):
    run.supervisor.write_text(text)
    run.heartbeat(0).write_text(text)
    run.exit_record(1, 0).write_text(text)
    assert read_supervisor(run.supervisor) is None
    assert read_heartbeats(run.heartbeats) == {}
    assert read_exit_records(run.attempt(1) / "exits") == {}
    assert read_status(run).state == "new"


def test_a_state_that_does_not_exist_is_no_record(run):
    write_json(run.supervisor, dataclasses.asdict(record_of(1, 2.0)) | {"state": "dancing"})
    assert read_supervisor(run.supervisor) is None


def test_a_reused_pid_is_not_the_process_that_was_recorded():
    process = psutil.Process()
    assert process_is_alive(process.pid, process.create_time())
    assert not process_is_alive(process.pid, process.create_time() - 100)


def test_a_supervisor_that_vanished_is_told_as_lost(run):
    write_supervisor(run.supervisor, record_of(os.getpid(), 5.0))
    status = read_status(run)
    assert status.state == "lost"
    assert "llama-dist launch" in status.reason


def test_attempts_are_counted_as_such_and_one_whose_supervisor_was_lost_is_listed(run):
    for number in (2, 3):
        run.attempt(number).mkdir()
    write_json(run.attempt(2) / "exit.json", {"exit_code": 143, "reason": "asked to stop"})
    process = psutil.Process()
    write_supervisor(run.supervisor, dataclasses.replace(record_of(process.pid, process.create_time()), attempt=3))
    text = render_status(read_status(run))
    assert "attempt     3 (2 before it)" in text and "restart" not in text
    assert "attempt 1   no end was recorded: its supervisor was lost" in text
    assert "attempt 2   ended with 143: asked to stop" in text
    assert "attempt 3 " not in text.partition("(2 before it)")[2], "it lives"
    write_supervisor(run.supervisor, dataclasses.replace(record_of(process.pid, 5.0), attempt=3))
    assert "attempt 3   no end was recorded" in render_status(read_status(run))


def test_an_attempt_of_torchruns_is_listed_by_what_its_ranks_said(run):
    write_json(run.attempt(1) / "torchrun.json", {"token": "x"})
    end = {"rank": 0, "exit_code": 143, "reason": "asked to stop", "step": 5, "host": "here", "time": 1.0}
    write_json(run.exit_record(1, 0), end)
    assert "attempt 1   ended with 143: started by torchrun: asked to stop" in render_status(read_status(run))


def test_status_shows_ranks_of_the_newest_attempt_only(run):
    created = psutil.Process().create_time()
    beat = {"pid": os.getpid(), "create_time": created, "host": os.uname().nodename, "phase": "train"}
    write_json(run.heartbeat(0), beat | {"attempt": 1, "step": 5, "time": time.time() - 3})
    write_json(run.heartbeat(1), beat | {"attempt": 0, "step": 9, "time": time.time()})
    write_supervisor(run.supervisor, record_of(os.getpid(), created))
    status = read_status(run)
    (rank,) = status.ranks
    assert (status.state, rank.rank, rank.step, rank.alive) == ("running", 0, 5, True)
    assert rank.heartbeat_age_seconds == pytest.approx(3, abs=2)  # two readings of the clock on a busy machine


def test_the_last_whole_line_of_the_spool_is_shown(tmp_path):
    spool = tmp_path / "spool.jsonl"
    assert last_metrics(spool) is None
    spool.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert last_metrics(spool) == {"step": 2}


def test_a_run_is_found_by_name_and_by_path(run):
    runs = run.path.parent
    assert find_run("fake", runs).path == run.path
    assert find_run(str(run.path), runs / "none").path == run.path


@pytest.mark.parametrize("name", ["$(touch canary)", "a b", "-x", "../fake", "nothing"])
def test_what_is_no_run_is_refused_with_the_runs_there_are(run, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="fake"):
        find_run(name, run.path.parent)
    assert not (tmp_path / "canary").exists()


class Screen:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class ClosedScreen(Screen):
    def write(self, text):
        raise BrokenPipeError


def test_a_growing_log_is_followed_without_tearing_a_character(tmp_path):
    log, screen = tmp_path / "rank_00000.out", Screen()
    follower = Follower(log, Console(screen))
    follower.show_new()  # not there yet
    whole = "höher\n".encode()
    log.write_bytes(whole[:2])
    follower.show_new()
    with log.open("ab") as file:
        file.write(whole[2:])
    follower.show_new()
    assert screen.text == "höher\n"


def test_a_closed_terminal_is_no_error():
    console = Console(ClosedScreen())
    console.say("one")
    console.say("two")


def test_the_tail_of_a_missing_log_is_empty(tmp_path):
    assert read_tail(tmp_path / "none", 10) == ""
    (tmp_path / "log").write_text(json.dumps("abcdef"))
    assert read_tail(tmp_path / "log", 3) == 'ef"'
