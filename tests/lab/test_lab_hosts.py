"""A real lab of three hosts: reached by ssh, broken in each way, mended, and nothing left of it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cluster_in_a_box import lab_for_tests
from lab_observation import lab_command, left_of, reaches, ssh, status_of

from launcher.lab.down import down
from launcher.lab.faults import cut, kill, mend, slow
from launcher.lab.inside import command_inside, run_inside
from launcher.lab.node_processes import pids_in
from launcher.lab.up import running_lab

pytestmark = pytest.mark.cluster

# Answers how many bytes a second came in, from the first to the last.
_RECEIVER = """
import socket, time
with socket.create_server(("0.0.0.0", 7700)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    started, received = time.monotonic(), 0
    while block := connection.recv(1 << 16):
        received += len(block)
    print(received / (time.monotonic() - started))
"""
_NUM_BYTES = 3 << 20


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("h") as lab:
        yield lab


def test_ssh_reaches_each_node_without_a_question_and_finds_its_own_host_name(lab):
    for node in lab.nodes:
        answer = ssh(lab, node.name, "hostname")
        assert (answer.returncode, answer.stdout) == (0, f"{node.name}\n"), answer.stderr


def test_nodes_reach_each_other_and_the_login_machine_s_name_resolves(lab):
    assert reaches(lab.nodes[0], "node3") and reaches(lab.nodes[2], "node1")
    answer = run_inside(lab, "node2", ["getent", "hosts", "login"])
    assert answer.stdout.split() == [lab.login_address, "login", os.uname().nodename]


def test_a_node_logs_in_to_another_with_the_lab_s_own_key(lab):
    answer = ssh(lab, "node1", "ssh", "-F", str(lab.ssh_config), "node2", "hostname")
    assert answer.stdout == "node2\n", answer.stderr


def test_a_login_without_the_lab_s_key_is_refused(lab, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    config = tmp_path / "config"
    config.write_text(lab.ssh_config.read_text().replace(str(lab.directory / "client_key"), str(key)))
    answer = subprocess.run(
        ["ssh", "-F", str(config), "node1", "true"], check=False, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 255 and "Permission denied (publickey)" in answer.stderr


def test_a_node_that_is_cut_off_is_reached_by_nobody_while_its_processes_live_on(lab):
    before = pids_in(lab.node("node2").namespace)
    cut(lab, "node2")
    try:
        assert not reaches(lab.node("node1"), "node2", timeout_seconds=1.0)
        assert not reaches(lab.node("node2"), "node1", timeout_seconds=1.0)
        assert reaches(lab.node("node1"), "node3")
        assert before and pids_in(lab.node("node2").namespace) == before
        assert status_of(lab)["node2"]["state"] == "cut"
    finally:
        mend(lab, "node2")
    assert reaches(lab.node("node1"), "node2")


def test_a_killed_node_has_no_process_left_and_comes_back_when_mended(lab):
    node = lab.node("node3")
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    worker = subprocess.Popen(command_inside(node, [sys.executable, "-c", stubborn]), start_new_session=True)
    while worker.pid not in pids_in(node.namespace):
        assert worker.poll() is None
    others = pids_in(lab.node("node1").namespace)
    assert kill(lab, "node3") >= 2
    assert worker.wait(10) == -signal.SIGKILL
    assert pids_in(node.namespace) == []
    assert pids_in(lab.node("node1").namespace) == others
    assert status_of(lab)["node3"] | {"address": ""} == {
        "name": "node3",
        "address": "",
        "namespace": node.namespace,
        "state": "killed",
        "limit_mbit": None,
        "daemons": {"sshd": None},
        "num_processes": 0,
    }
    mend(lab, "node3")
    assert ssh(lab, "node3", "hostname").stdout == "node3\n"


def test_a_slow_link_lets_through_what_it_was_told_to(lab):
    """An eighth above the limit: the bucket of 40 KB passes whole, and so does what the receiver's clock misses."""
    node = lab.node("node1")
    fast = _bytes_a_second(node)
    slow(lab, "node1", 20)
    try:
        assert status_of(lab)["node1"]["state"] == "slow"
        limited = _bytes_a_second(node)
    finally:
        mend(lab, "node1")
    assert limited * 8 < 20e6 * 1.125, f"{limited * 8 / 1e6:.1f} Mbit/s"
    assert fast > 2 * limited and _bytes_a_second(node) > 2 * limited


def _bytes_a_second(node) -> float:
    import socket

    receiver = subprocess.Popen(
        command_inside(node, [sys.executable, "-S", "-c", _RECEIVER]), stdout=subprocess.PIPE, text=True
    )
    assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n"
    with socket.create_connection((node.address, 7700), timeout=30) as connection:
        connection.sendall(b"x" * _NUM_BYTES)
    output, _ = receiver.communicate(timeout=60)
    return float(output)


def test_exec_runs_on_the_node_and_ends_with_the_command_s_code(lab):
    program = "import os, sys; print(os.uname().nodename); sys.exit(7)"
    answer = lab_command("exec", "--name", lab.name, "node2", "--", sys.executable, "-S", "-c", program)
    assert (answer.stdout, answer.returncode) == ("node2\n", 7), answer.stderr


def test_two_labs_stand_side_by_side_and_one_outlives_the_other(lab):
    with running_lab(f"{lab.name}2"[:11], num_nodes=1) as other:
        assert other.subnet != lab.subnet
        assert ssh(other, "node1", "hostname").stdout == "node1\n"
        assert not reaches(other.nodes[0], lab.nodes[0].address, timeout_seconds=1.0)
    assert left_of(other.name) == []
    assert ssh(lab, "node1", "hostname").stdout == "node1\n"


def test_the_command_line_builds_a_lab_that_outlives_it_and_removes_it_whole(lab):
    name = f"{lab.name}3"[:11]
    try:
        built = lab_command("up", "--nodes", "1", "--name", name, "--json")
        assert built.returncode == 0, built.stderr
        values = json.loads(built.stdout)
        answer = subprocess.run(
            ["ssh", "-F", values["ssh_config"], "node1", "hostname"], check=True, capture_output=True, text=True
        )
        assert answer.stdout == "node1\n"
        again = lab_command("up", "--nodes", "1", "--name", name)
        assert again.returncode == 78 and "there already" in again.stderr
        assert len(left_of(name)) > 4
        assert lab_command("down", "--name", name).stdout == f"lab `{name}` is gone\n"
        assert left_of(name) == []
        once_more = lab_command("down", "--name", name)
        assert once_more.returncode == 0 and "nothing to remove" in once_more.stdout
    finally:
        down(name)


def test_a_lab_whose_building_was_killed_half_way_is_removed_whole(lab):
    name = f"{lab.name}4"[:11]
    program = f"from launcher.lab.up import up; up({name!r})"
    building = subprocess.Popen([sys.executable, "-c", program])
    try:
        while not any("-node2" in one for one in left_of(name)):
            assert building.poll() is None
            time.sleep(0.002)
        building.kill()
        building.wait()
        assert down(name) is True
        assert left_of(name) == []
    finally:
        building.kill()
        building.wait()
        down(name)
