"""What the doctor says when its time is up: that is held against no node. A clock that only a silent node moves."""

import os
import sys
import time
from types import SimpleNamespace

import pytest

from launcher.console import Console
from launcher.doctor.all_reduce import measure_all_pairs
from launcher.doctor.budget import Budget, TimeUpError
from launcher.doctor.examine import Examination
from launcher.doctor.probe_pool import Answer, Loss, ProbePool, ask_all
from launcher.doctor.result import CheckResult, DoctorReport
from launcher.doctor.subject import Subject
from launcher.doctor.this_machine import this_machine
from launcher.launch import LaunchRequest, check_launch
from launcher.preflight import check_before_launch
from llama_dist.config import ClusterConfig

PROBE = (sys.executable, "-m", "cluster.probe")
SLOW_PROBE = ("sh", "-c", 'sleep 0.5; exec "$@"', "sh", *PROBE)


class Nodes:
    """Nodes that answer at once as this machine does, but for the questions to which `is_silent` says otherwise."""

    def __init__(self, machine, is_silent):
        self.lost, self.now = {}, 0.0
        self._machine, self._is_silent = machine, is_silent

    def ask(self, requests, seconds, *, loses_silent=True):
        asked = {host: request for host, request in requests.items() if host not in self.lost}
        silent = [host for host, request in asked.items() if self._is_silent(host, request["ask"])]
        self.now += seconds if silent else 0.01
        self.lost |= {host: Loss("silent", None, "") for host in silent if loses_silent}
        answered = {host: request for host, request in asked.items() if host not in silent}
        answers = self._machine.ask(answered, seconds)
        return {host: answers.get(host, Answer(None, "has not answered yet")) for host in requests}


@pytest.fixture
def nodes_of(monkeypatch):
    """Make nodes whose clock is the budget's and the examination's."""
    with this_machine() as machine:

        def make(is_silent):
            nodes = Nodes(machine, is_silent)
            clock = SimpleNamespace(monotonic=lambda: nodes.now, time=time.time)
            monkeypatch.setattr("launcher.doctor.budget.time", clock)
            return nodes

        yield make


def looked(nodes, hosts, seconds=55.0, **cluster):
    examination = Examination(Subject(ClusterConfig(**cluster), hosts), Budget(nodes, seconds))
    examination.look()
    return examination


def verdicts(examination, verdict):
    return [(one.check, one.host) for one in examination.results if one.verdict == verdict]


def test_a_dead_node_that_is_waited_for_long_leaves_time_to_examine_the_others(nodes_of):
    nodes = nodes_of(lambda host, _question: host == "dead")
    examination = looked(nodes, ("a", "dead"), connect_timeout_seconds=60.0)
    assert verdicts(examination, "failed") == [("reachable", "dead")]
    assert examination.hosts == ["a"]
    assert ("ports", None) in verdicts(examination, "ok")


def test_time_that_is_up_is_held_against_no_node_and_what_was_not_looked_at_is_told(nodes_of):
    nodes = nodes_of(lambda _host, question: question == "hardware")
    examination = looked(nodes, ("a",), seconds=20.0)
    assert not verdicts(examination, "failed") and not nodes.lost
    assert examination.hosts == ["a"]
    late = {one.check: one for one in examination.results if "time was up" in one.text}
    assert late.keys() == {
        *("gpus", "gpu errors", "idle", "memory", "config", "dataset", "disk"),
        "ports",
    }
    assert {one.verdict for one in late.values()} == {"skipped"}
    assert late["gpus"].text == "time was up before a had answered" and late["gpus"].advice
    assert late["ports"].text == "time was up before this was asked"


def test_links_that_there_was_no_time_for_are_skipped(nodes_of):
    nodes = nodes_of(lambda _host, question: question == "hardware")
    examination = looked(nodes, ("localhost", "127.0.0.1"), seconds=20.0)
    examination.measure_links()
    assert ("all-reduce", None) in verdicts(examination, "skipped")


def test_a_round_that_is_cut_short_leaves_its_pairs_out(nodes_of):
    nodes = nodes_of(lambda _host, question: question == "reduce")
    speeds = measure_all_pairs(Budget(nodes, 15), ["localhost", "127.0.0.1"], "gloo")
    assert (speeds.pairs, speeds.num_left_out) == ((), 1)


def test_a_question_that_had_its_whole_time_still_loses_a_silent_node(nodes_of):
    nodes = nodes_of(lambda _host, _question: True)
    Budget(nodes, 55).ask({"a": {"ask": "clock"}}, 3)
    assert nodes.lost["a"].kind == "silent"
    with pytest.raises(TimeUpError, match="time was up before b had answered"):
        Budget(nodes, 2).ask({"b": {"ask": "clock"}}, 3)
    assert "b" not in nodes.lost


def test_a_node_that_is_only_late_answers_the_next_question():
    with ProbePool({"a": SLOW_PROBE}) as pool:
        late = pool.ask({"a": {"ask": "clock"}}, 0.1, loses_silent=False)["a"]
        assert late.values is None and not late.received_at and not pool.lost
        assert ask_all(pool, ["a"], {"ask": "clock"}, 30)["a"].values


def test_a_launch_tells_what_it_had_no_time_to_look_at(fake_run, monkeypatch, capsys):
    late = CheckResult("disk", None, "skipped", "time was up before this was asked", "look again")
    nothing = CheckResult("gpus", None, "skipped", "no nvidia-smi on any node")
    monkeypatch.setattr(
        "launcher.preflight.quick_checks", lambda subject: DoctorReport(subject.hosts, (late, nothing), 55.0)
    )
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": ""}
    check_before_launch(check_launch(LaunchRequest(fake_run.run_file), environment), Console())
    said = capsys.readouterr().out
    assert "skipped: disk: time was up before this was asked: look again" in said
    assert "gpus" not in said
