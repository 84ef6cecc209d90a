"""The doctor's verdicts on disks, shared directories, datasets, ports and links, and its tournament. Pure."""

from dataclasses import replace
from itertools import combinations

import pytest
from doctor_facts import DATASET, GIB, HOSTS, PLACE, found, nodes
from hypothesis import given
from hypothesis import strategies as st

from launcher.doctor.network_checks import PairSpeed, Unreached, check_all_reduce, check_ports, slow_pairs
from launcher.doctor.render import render_report
from launcher.doctor.result import CheckResult, DoctorReport
from launcher.doctor.storage_checks import DiskNeed, Sightings, check_datasets, check_disk, check_shared
from launcher.doctor.tournament import pair_rounds

one_host = st.sampled_from(HOSTS)
ALL_SEEN = Sightings("/runs", "", {}, HOSTS, HOSTS)


@given(st.integers(0, 33))
def test_all_pairs_meet_once_and_no_host_twice_in_a_round_in_the_fewest_rounds(count):
    hosts = [f"n{number}" for number in range(count)]
    rounds = pair_rounds(hosts)
    met = [frozenset(pair) for one in rounds for pair in one]
    assert len(met) == len(set(met)) and set(met) == {frozenset(pair) for pair in combinations(hosts, 2)}
    for one in rounds:
        busy = [host for pair in one for host in pair]
        assert len(busy) == len(set(busy))
    if count >= 2:
        assert len(rounds) == (count - 1 if count % 2 == 0 else count)


@pytest.mark.parametrize(("free", "verdict"), [(40 * GIB, "ok"), (31 * GIB, "warning"), (29 * GIB, "failed")])
def test_checkpoints_must_fit_with_what_the_run_has_there_already(free, verdict):
    need = DiskNeed("/c", True, 10 * GIB, 4, is_shared=False)
    results = check_disk(nodes(PLACE, node2={"free_bytes": free, "used_bytes": 10 * GIB}), need)
    assert [(one.host, one.verdict) for one in results] == [(None if verdict == "ok" else "node2", verdict)]


def test_one_full_disk_that_all_share_is_told_once():
    need = DiskNeed("/c", True, 200 * GIB, 4, is_shared=True)
    assert found(check_disk(nodes(PLACE), need)) == [None]


@given(one_host, st.sampled_from(["sees_ours", "seen_here", "both"]))
def test_a_node_with_a_directory_of_its_own_is_named(host, blind):
    others = [one for one in HOSTS if one != host]
    names = ["sees_ours", "seen_here"] if blind == "both" else [blind]
    seen = replace(ALL_SEEN, **dict.fromkeys(names, others))
    assert found(check_shared("run directory", HOSTS, seen, must_be_shared=True)) == [host]
    assert not found(check_shared("run directory", HOSTS, seen, must_be_shared=False))


def test_a_directory_that_cannot_be_written_is_a_fault_shared_or_not():
    seen = replace(ALL_SEEN, write_faults={"node3": "Read-only file system"}, seen_here=HOSTS[:2])
    for must_be_shared in (True, False):
        results = check_shared("run directory", HOSTS, seen, must_be_shared=must_be_shared)
        assert "node3" in found(results)
    assert found(check_shared("run directory", HOSTS, replace(ALL_SEEN, own_fault="x"), must_be_shared=True)) == [None]


def test_a_shared_directory_that_the_config_calls_unshared_is_a_warning():
    assert found(check_shared("checkpoints", HOSTS, ALL_SEEN, must_be_shared=False), "warning") == [None]


@given(one_host, st.sampled_from(["fingerprint", "manifest_hash", "num_bytes", "num_shards", "fault"]))
def test_a_node_with_other_data_is_named(host, field):
    other = {"num_bytes": 1, "num_shards": 11}.get(field, "other")
    seen = {one: {"/d": replace(DATASET, **({field: other} if one == host else {}))} for one in HOSTS}
    results = check_datasets(seen, 0)
    assert found(results) == [host]
    assert found(check_datasets({one: {"/d": DATASET} for one in HOSTS}, 0), "ok") == [None]


def test_a_node_that_no_other_reaches_is_one_finding():
    unreached = [Unreached(one, "node3", "port 5 gave no answer") for one in HOSTS if one != "node3"]
    unreached += [Unreached("node3", one, "no route") for one in HOSTS if one != "node3"]
    results = check_ports(HOSTS, None, {}, unreached)
    assert found(results) == ["node3"]
    assert "node1, node2, node4" in results[0].text


def test_every_cut_link_is_in_some_finding_and_a_taken_port_is_told():
    results = check_ports(HOSTS, 29500, {"node1": "Address already in use"}, [Unreached("node2", "node4", "refused")])
    assert len(results) == 2
    assert "29500: Address already in use" in results[0].text
    assert "node2 to node4: refused" in results[1].text


def speeds(hosts, slow=(), fast=100e6):
    return [
        PairSpeed(one, other, latency_seconds=1e-4, bytes_per_second=fast / 10 if {one, other} & set(slow) else fast)
        for one, other in combinations(hosts, 2)
    ]


@given(st.integers(3, 9), st.data())
def test_a_slow_node_is_named_with_the_hosts_of_each_of_its_links(count, data):
    """Also of three, where two of the three links are slow and so the median link is."""
    hosts = [f"n{number}" for number in range(count)]
    slow = data.draw(st.sampled_from(hosts))
    results = check_all_reduce("gloo", speeds(hosts, [slow]), {}, 0)
    assert found(results) == [slow] * (count - 1)
    for other in set(hosts) - {slow}:
        assert any({slow, other} == set(one.text.split(":")[0].split(" - ")) for one in results if one.host == slow)


def test_one_slow_link_between_good_nodes_blames_neither():
    pairs = [replace(one, bytes_per_second=1e6) if one.hosts == ("node2", "node3") else one for one in speeds(HOSTS)]
    results = check_all_reduce("gloo", pairs, {}, 0)
    assert len(found(results)) == 1
    assert "node2 - node3" in results[0].text and "all links" not in results[0].text


@given(st.lists(st.floats(51.0, 100.0), min_size=6, max_size=6))
def test_links_above_half_of_the_usual_are_no_outliers(rates):
    pairs = [replace(one, bytes_per_second=rate) for one, rate in zip(speeds(HOSTS), rates, strict=True)]
    assert not slow_pairs(pairs)


def test_a_link_that_fails_is_told_and_does_not_count_as_a_speed():
    pairs = [*speeds(HOSTS[:3]), PairSpeed("node1", "node4", fault="node4: timed out")]
    results = check_all_reduce("gloo", pairs, {"node2": "no torch"}, 2)
    assert (
        found(results) == ["node2", "node4"] and "no torch" in results[0].text and "node4: timed out" in results[1].text
    )
    assert "2 pair(s)" in next(one.text for one in results if one.verdict == "warning")


def test_what_a_node_says_reaches_no_terminal_as_a_command():
    bad = CheckResult("reachable", "node1", "failed", "\x1b]0;title\x07\x1b[2J\rfine")
    text = render_report(DoctorReport(HOSTS, (bad,), 1.0))
    assert all(character.isprintable() or character == "\n" for character in text)


def test_one_finding_on_many_nodes_is_one_row():
    results = [CheckResult("code", host, "failed", "other sources", "update it") for host in HOSTS]
    text = render_report(DoctorReport(HOSTS, tuple(results), 1.0))
    assert text.count("other sources") == text.count("update it") == 1
    assert "4 nodes" in text and all(host in text for host in HOSTS)
    assert "4 to be mended" in text


def test_the_report_says_every_finding_and_its_remedy_and_exits_78_only_for_faults():
    fine = CheckResult("code", None, "ok", "same everywhere")
    bad = CheckResult("disk", "node2", "failed", "1 GiB free, " + "much " * 40 + "needed", "free some")
    text = render_report(DoctorReport(HOSTS, (fine, bad), 1.5))
    assert "same everywhere" in text and "FAILED" in text and "node2" in text and "-> free some" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    assert DoctorReport(HOSTS, (fine, bad), 1.5).exit_code == 78
    assert DoctorReport(HOSTS, (fine, replace(bad, verdict="warning")), 1.5).exit_code == 0
    assert DoctorReport(HOSTS, (fine, bad), 1.5).to_json()["results"][1]["host"] == "node2"
