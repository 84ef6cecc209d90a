"""The doctor asks all nodes at once, waits no longer than told, and ends what it started. Real probes, no network."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import pytest
from fake_run import run_values
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.probe.answers import NodeProbe
from cluster.probe.serve import answer_of
from launcher.doctor.all_reduce import measure_all_pairs
from launcher.doctor.budget import Budget
from launcher.doctor.examine import Examination
from launcher.doctor.node_facts import AnswerError, read_hardware, read_hello, read_storage
from launcher.doctor.probe_pool import ProbePool, ask_all
from launcher.doctor.subject import Subject
from launcher.doctor.visit import examine, quick_checks
from llama_dist.config import ClusterConfig, parse_run_config

PROBE = (sys.executable, "-m", "cluster.probe")
REFUSED = ("sh", "-c", "echo 'ssh: connect to host b port 22: Connection refused' >&2; exit 255")
SILENT = ("sleep", "600")
BANNER = ("sh", "-c", 'echo "Welcome to the cluster!"; echo \'{"id": 1}\'; exec "$@"', "sh", *PROBE)
OTHER_REVISION = ("sh", "-c", 'read line; echo \'{"llama_dist_probe": 1, "id": 1, "answer": {}}\'; read line')


@pytest.fixture
def pool_of():
    pools = []

    def start(**commands):
        pools.append(ProbePool(commands))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def test_a_banner_before_the_answers_does_no_harm(pool_of):
    pool = pool_of(a=BANNER)
    answer = ask_all(pool, ["a"], {"ask": "clock"}, 30)["a"]
    assert abs(answer.values["time"] - time.time()) < 30
    assert not pool.lost


def test_all_that_can_be_wrong_with_a_node_is_found_at_once(pool_of):
    pool = pool_of(a=PROBE, b=REFUSED, c=SILENT, d=("no-such-program",), e=("sh", "-c", "exit 3"))
    begin = time.monotonic()
    answers = ask_all(pool, ["a", "b", "c", "d", "e"], {"ask": "clock"}, 6)
    assert time.monotonic() - begin < 8
    assert answers["a"].values
    assert {host: loss.kind for host, loss in pool.lost.items()} == {
        "b": "ended",
        "c": "silent",
        "d": "not started",
        "e": "ended",
    }
    assert "Connection refused" in answers["b"].fault and "255" in answers["b"].fault
    assert "ended with 3" in answers["e"].fault


def test_a_lost_node_is_not_waited_for_again(pool_of):
    pool = pool_of(a=PROBE, c=SILENT)
    ask_all(pool, ["a", "c"], {"ask": "clock"}, 5)
    begin = time.monotonic()
    assert ask_all(pool, ["a", "c"], {"ask": "clock"}, 60)["a"].values
    assert time.monotonic() - begin < 30


def test_a_probe_that_is_killed_is_told_with_its_signal(pool_of):
    pool = pool_of(a=PROBE, b=PROBE)
    pid = ask_all(pool, ["a"], {"ask": "hello"}, 30)["a"].values["pid"]
    os.kill(pid, 9)
    answers = ask_all(pool, ["a", "b"], {"ask": "clock"}, 30)
    assert answers["a"].values is None and "-9" in answers["a"].fault
    assert answers["b"].values


def test_a_large_question_to_a_node_that_does_not_read_does_not_block(pool_of):
    pool = pool_of(c=SILENT)
    begin = time.monotonic()
    ask_all(pool, ["c"], {"ask": "storage", "places": ["x" * 1000] * 1000, "counted": []}, 0.5)
    assert time.monotonic() - begin < 5
    assert pool.lost["c"].kind == "silent"


def test_closing_ends_the_probes_and_what_does_not_listen():
    with ProbePool({"a": PROBE, "c": SILENT}) as pool:
        answer = ask_all(pool, ["a"], {"ask": "hello"}, 30)["a"]
        pids = [answer.values["pid"], pool._nodes["c"]._process.pid]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_node_of_another_revision_is_told_and_the_rest_examined(pool_of):
    pool = pool_of(a=PROBE, x=OTHER_REVISION)
    examination = Examination(Subject(ClusterConfig(), ("a", "x")), Budget(pool, 60))
    examination.look()
    failures = [(one.check, one.host) for one in examination.results if one.verdict == "failed"]
    assert ("reachable", "x") in failures
    assert "another revision" in next(one.advice for one in examination.results if one.host == "x")
    assert {one.check for one in examination.results} >= {"code", "clock", "ports", "memory"}


def test_two_names_of_this_machine_are_found_out(pool_of):
    examination = Examination(Subject(ClusterConfig(), ("a", "b")), Budget(pool_of(a=PROBE, b=PROBE), 60))
    examination.look()
    found = [one.host for one in examination.results if one.check == "machines" and one.verdict == "failed"]
    assert found == ["b"]


def test_three_probes_measure_their_three_links_and_the_others_go_on_without_a_dead_one(pool_of):
    pool = pool_of(localhost=PROBE, **{"127.0.0.1": PROBE, "127.0.0.2": PROBE})
    hosts = ["localhost", "127.0.0.1", "127.0.0.2"]
    speeds = measure_all_pairs(Budget(pool, 200), hosts, "gloo")
    assert [pair.fault for pair in speeds.pairs] == ["", "", ""]
    assert all(pair.bytes_per_second > 1e5 and 0 < pair.latency_seconds < 10 for pair in speeds.pairs)
    os.kill(ask_all(pool, ["127.0.0.2"], {"ask": "hello"}, 30)["127.0.0.2"].values["pid"], 9)
    speeds = measure_all_pairs(Budget(pool, 200), hosts, "gloo")
    assert [(pair.hosts, pair.fault) for pair in speeds.pairs] == [(("localhost", "127.0.0.1"), "")]
    assert list(speeds.host_faults) == ["127.0.0.2"]


def test_time_that_is_up_leaves_pairs_out_and_says_how_many(pool_of):
    class Expired(Budget):
        seconds_left = 0.0

        def ask(self, requests, seconds):
            return self._nodes.ask(requests, seconds)

    pool = pool_of(localhost=PROBE, **{"127.0.0.1": PROBE, "127.0.0.2": PROBE})
    speeds = measure_all_pairs(Expired(pool, 0), list(pool._nodes), "gloo")
    assert (speeds.pairs, speeds.host_faults, speeds.num_left_out) == ((), {}, 3)


@pytest.mark.parametrize(("look", "limit_seconds"), [(examine, 5), (quick_checks, 1)])
def test_this_machine_alone_is_examined_in_a_moment(look, limit_seconds):
    reports = [look(Subject(ClusterConfig(), ("here",))) for _ in range(3)]
    assert min(report.seconds for report in reports) < limit_seconds
    assert not reports[0].failures, reports[0].failures
    assert json.loads(json.dumps(reports[0].to_json()))["hosts"] == ["here"]


def test_the_quick_checks_find_on_this_machine_what_a_probe_of_its_own_finds(tmp_path):
    values = run_values(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    subject = Subject(ClusterConfig(), ("here",), parse_run_config(values, where="test"))
    quick, whole = quick_checks(subject), examine(subject)
    assert [(one.check, one.text) for one in quick.failures] == [(one.check, one.text) for one in whole.failures]
    assert [one.check for one in quick.failures] == ["dataset"]
    assert not list(tmp_path.glob(".llama-dist-doctor-*"))


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.sampled_from([read_hello, read_hardware, read_storage]), st.data())
def test_whatever_a_node_answers_is_read_or_refused(reader, data):
    """Any field of a good answer may hold anything."""
    answers = {read_hello: {"ask": "hello"}, read_hardware: {"ask": "hardware"}}
    request = answers.get(
        reader, {"ask": "storage", "places": ["/"], "counted": [], "datasets": ["/"], "files": ["/x"]}
    )
    values = json.loads(json.dumps(answer_of(NodeProbe(), request)["answer"]))
    target = values
    while isinstance(target, dict) and target:
        name = data.draw(st.sampled_from(sorted(target)))
        if not isinstance(target[name], dict) or data.draw(st.booleans()):
            target[name] = data.draw(any_json)
            break
        target = target[name]
    with contextlib.suppress(AnswerError):
        reader(values)
