"""What a lab consists of, as far as it can be said without one."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.lab import slurm_files, ssh_files, user_files
from launcher.lab.lab_error import LabError
from launcher.lab.layout import MAX_NODES, check_name, free_subnet, lay_out, link_pattern, namespace_pattern
from launcher.lab.mounts import mounts_below
from launcher.lab.slurm_hosts import is_up

NAMES = st.builds(
    str.__add__,
    st.sampled_from(string.ascii_lowercase),
    st.text(string.ascii_lowercase + string.digits + "-", max_size=10),
)
LAB = lay_out("lab", 3, 7, has_slurm=True)


@given(NAMES)
def test_every_interface_name_fits_the_kernel_s_15_characters(name):
    lab = lay_out(name, MAX_NODES, 1, has_slurm=True)
    assert max(len(link) for link in [lab.bridge, *(host.link for host in lab.hosts)]) <= 15


@given(NAMES, NAMES)
def test_what_down_removes_is_of_that_lab_alone(name, other_name):
    lab, other = (lay_out(one, MAX_NODES, 1, has_slurm=True) for one in (name, other_name))
    for host in lab.hosts:
        assert namespace_pattern(name).fullmatch(host.namespace) and link_pattern(name).fullmatch(host.link)
    assert link_pattern(name).fullmatch(lab.bridge)
    if name != other_name:
        assert not any(namespace_pattern(name).fullmatch(host.namespace) for host in other.hosts)
        assert not any(link_pattern(name).fullmatch(link) for link in [other.bridge, *(h.link for h in other.hosts)])


def test_no_two_hosts_of_a_lab_share_a_name_or_an_address():
    lab = lay_out("lab", MAX_NODES, 7, has_slurm=True)
    assert len({host.address for host in lab.hosts} | {lab.login_address}) == MAX_NODES + 2
    assert len({host.namespace for host in lab.hosts}) == len({host.link for host in lab.hosts}) == MAX_NODES + 1


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "-lab", "a/b", "a b", "a;b", "../x", "lab\n", "a" * 12, "é"])
def test_a_name_that_could_be_something_else_is_refused(name):
    with pytest.raises(LabError, match="--name"):
        check_name(name)


@pytest.mark.parametrize("num_nodes", [0, -1, MAX_NODES + 1])
def test_a_number_of_nodes_that_has_no_addresses_is_refused(num_nodes):
    with pytest.raises(LabError, match="1 to 99"):
        lay_out("lab", num_nodes, 0, has_slurm=False)


def test_a_network_that_the_machine_or_another_lab_uses_is_not_taken():
    assert free_subnet([], []) == 0
    assert free_subnet(["127.0.0.1", "10.77.0.254", "10.78.1.1"], [1, 3]) == 2
    with pytest.raises(LabError, match="in use"):
        free_subnet([], range(250))


def test_an_unknown_node_is_answered_with_the_names_that_there_are():
    with pytest.raises(LabError, match="`node9`, only node1, node2, node3, control"):
        LAB.node("node9")


def test_sshd_listens_on_its_node_s_address_and_takes_keys_alone():
    lines = ssh_files.sshd_config(LAB, LAB.nodes[1]).splitlines()
    assert "ListenAddress 10.77.7.2" in lines
    assert {"PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no"} <= set(lines)


def test_every_path_of_slurm_is_below_the_lab_and_the_socket_fits_the_kernel():
    paths = [
        word.partition("=")[2].removeprefix("socket=").split(",")[0]
        for word in slurm_files.slurm_conf(LAB, 2, 1000).split()
        if "/run" in word
    ]
    assert len(paths) == 6 and all(path.startswith("/run/llama-dist-lab/lab/") for path in paths)
    longest = lay_out("a" * 11, 3, 249, has_slurm=True)
    assert len(str(slurm_files.munge_socket(longest))) < 108  # sun_path of unix(7)


def test_nodes_know_each_other_and_the_login_machine_by_name():
    lines = user_files.hosts_text(LAB, "workstation").splitlines()
    assert "10.77.7.254 login workstation" in lines
    assert "10.77.7.1 node1" in lines and "10.77.7.253 control" in lines


def test_the_cluster_file_without_slurm_is_the_one_over_ssh():
    plain = lay_out("lab", 2, 7, has_slurm=False)
    assert plain.cluster_file == plain.ssh_cluster_file and plain.slurm_conf is None
    assert LAB.cluster_file != LAB.ssh_cluster_file
    assert user_files.ssh_cluster(plain) == {
        "backend": "ssh",
        "hosts": ["node1", "node2"],
        "ssh_config": "/run/llama-dist-lab/lab/ssh_config",
        "num_processes_per_node": 1,
    }


def test_only_mounts_below_the_lab_are_taken_off_the_innermost_first():
    info = "\n".join(
        f"{number} 1 8:1 / {point} rw - ext4 /dev/sda rw"
        for number, point in enumerate(
            ["/", "/run/x", "/run/x/lab", "/run/x/lab/a", "/run/x/lab/a/b\\040c", "/run/x/lab2/a"]
        )
    )
    assert mounts_below(Path("/run/x/lab"), info) == ["/run/x/lab/a/b c", "/run/x/lab/a"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("idle", True),
        ("drained", True),
        ("allocated", True),
        ("down*", False),
        ("idle*", False),
        ("down", False),
        ("", False),
    ],
)
def test_a_node_that_slurm_gave_up_or_does_not_hear_is_not_up(state, expected):
    assert is_up(state) is expected
