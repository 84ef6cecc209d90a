"""What stands in the way of a lab is named, and nothing is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_in_a_box import name_for_tests, skip_unless_possible
from lab_observation import lab_command, left_of

from launcher.lab import programs
from launcher.lab.down import down
from launcher.lab.lab_error import LabError
from launcher.lab.node_processes import end_processes_in
from launcher.lab.up import up


def test_another_user_than_root_is_told_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"needs root.*user 1000"):
        up(name_for_tests("r"))
    assert LabError.exit_code == 78


def test_another_system_than_linux_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(LabError, match="this is darwin"):
        programs.check_root()


def test_missing_programs_are_all_named_with_their_debian_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(programs, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(LabError) as caught:
        programs.check_machine(with_slurm=True)
    assert "ip, tc," in str(caught.value)
    wanted = "hostname iproute2 munge openssh-client openssh-server slurm-wlm util-linux"
    assert f"apt-get install {wanted}" in str(caught.value)
    with pytest.raises(LabError) as caught:
        programs.check_machine(with_slurm=False)
    assert "slurm" not in str(caught.value) and "munge" not in str(caught.value)


def test_hosts_files_that_a_reboot_left_are_removed():
    skip_unless_possible()
    name = name_for_tests("r")
    left = Path("/etc/netns") / f"ld-{name}-node1"
    left.mkdir(parents=True)
    assert down(name) is True
    assert left_of(name) == []


def test_a_lab_that_is_not_there_is_said_to_be_not_there():
    skip_unless_possible()
    answer = lab_command("status", "--name", "absent")
    assert answer.returncode == 78
    assert answer.stderr.startswith("llama-dist: there is no lab `absent`")


def test_a_daemon_that_ends_at_once_is_named_with_its_log_and_nothing_is_left(monkeypatch, tmp_path):
    skip_unless_possible()
    name = name_for_tests("r")
    sshd = tmp_path / "sshd"
    sshd.write_text("#!/bin/sh\necho no sshd today >&2\nexit 1\n")
    sshd.chmod(0o755)
    monkeypatch.setattr(programs, "SEARCH_PATH", f"{tmp_path}:{programs.SEARCH_PATH}")
    with pytest.raises(LabError, match=r"node1\.sshd has ended(.|\n)*no sshd today"):
        up(name, num_nodes=2)
    assert left_of(name) == []


def test_a_failed_step_is_named_and_nothing_is_left(monkeypatch, tmp_path):
    skip_unless_possible()
    name = name_for_tests("r")
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho not allowed >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setattr(programs, "SEARCH_PATH", f"{tmp_path}:{programs.SEARCH_PATH}")
    with pytest.raises(LabError, match=r"host name of node1: .* ended with 1: not allowed"):
        up(name, num_nodes=2)
    assert left_of(name) == []


def test_an_interface_of_someone_else_is_not_taken_and_not_removed():
    skip_unless_possible()
    name = name_for_tests("r")
    subprocess.run(["ip", "link", "add", f"{name}-br", "type", "bridge"], check=True)
    try:
        with pytest.raises(LabError, match=f"interface {name}-br is there"):
            up(name)
        assert lab_command("down", "--name", name).stdout == f"there is no lab `{name}`: nothing to remove\n"
        assert left_of(name) == [f"{name}-br"]
    finally:
        subprocess.run(["ip", "link", "delete", f"{name}-br"], check=True)


def test_the_machine_s_own_network_is_never_taken_for_a_node_s():
    """A name below /run/netns may stand for the machine's own namespace: every process would be ended."""
    skip_unless_possible()
    namespace = f"ld-{name_for_tests('r')}-self"
    subprocess.run(["ip", "netns", "attach", namespace, str(os.getpid())], check=True)
    try:
        with pytest.raises(LabError, match="machine's own network"):
            end_processes_in(namespace)
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)
