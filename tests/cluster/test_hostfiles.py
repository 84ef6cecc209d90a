import time
from pathlib import Path

import pytest

from cluster.hostfile import parse_hostfile, read_hostfile
from cluster.inventory import Inventory, InventoryNode, inventory_of_hosts
from data_pipeline.config import ConfigError


def parse(content: bytes) -> Inventory:
    return parse_hostfile(content, "hosts.txt")


def faults_of(content: bytes) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(content)
    return [line.strip() for line in str(raised.value).splitlines()]


TWO = (InventoryNode("node1", 8), InventoryNode("node2", 4))


@pytest.mark.parametrize(
    "content",
    [
        b"node1 slots=8\nnode2 slots=4\n",
        b"node1 slots=8\nnode2 slots=4",
        b"node1 slots=8\r\nnode2 slots=4\r\n",
        b"\xef\xbb\xbfnode1 slots=8\nnode2 slots=4\n",
        b"# my cluster\n\n  node1\t slots=8  # the first\n   \nnode2 slots=04#\n\n",
        "# Knöten\nnode1 slots=8\nnode2 slots=4\n".encode(),
    ],
)
def test_comments_blank_lines_and_line_ends_change_nothing(content):
    assert parse(content) == Inventory(TWO, "hosts.txt")


def test_addresses_are_hosts():
    inventory = parse(b"10.77.0.1 slots=1\n[2001:db8::1] slots=1\n2001:DB8::2 slots=1\n")
    assert inventory.hosts == ("10.77.0.1", "2001:db8::1", "2001:db8::2")


def test_all_faults_are_told_at_once_each_with_its_line():
    told = faults_of(
        b"node1 slots=8\n"
        b"# fine\n"
        b"-oProxyCommand=touch canary\n"
        b"a;b slots=1\n"
        b"$(touch canary) slots=1\n"
        b"node2\n"
        b"node3 slots=0\n"
        b"node4 slots=many\n"
        b"node5 slots=8 slots=8\n"
        b"n\xf6de slots=8\n"
        b"NODE1 slots=8\n"
        b"node6 slots=-1\n"
        b"node7 slots=99999999999999999999999\n"
        b"node8 8\n"
    )
    assert told[0] == "hosts.txt: the hosts cannot be used:"
    assert [line.split(":")[0] for line in told[1:]] == [f"line {number}" for number in (3, 4, 5, *range(6, 15))]
    assert "begins with a dash" in told[1]
    assert "named in line 1 already" in told[9]
    assert "not UTF-8 at its byte 2" in told[8]


def test_two_spellings_of_one_address_are_one_host():
    assert "line 2: host ::1 is named in line 1 already" in faults_of(b"::1 slots=1\n[0::1] slots=1\n")[1]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_hosts_is_refused(content):
    assert "it names no host" in faults_of(content)[1]


def test_another_encoding_is_named():
    assert "UTF-16" in faults_of("node1 slots=8\n".encode("utf-16"))[0]


@pytest.mark.parametrize("separator", [b"\x0b", b"\x0c", b"\x1c", b"\xc2\x85", b"\xe2\x80\xa8", b"\xc2\xa0", b"\r"])
def test_what_some_editors_take_for_a_line_end_or_a_space_is_none(separator):
    assert len(faults_of(b"node1 slots=8" + separator + b"node2 slots=8\n")) == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="none: the hostfile cannot be read"):
        read_hostfile(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hostfile(tmp_path)


def test_a_file_is_read(tmp_path: Path):
    (tmp_path / "hosts").write_bytes(b"node1 slots=8\nnode2 slots=4\n")
    assert read_hostfile(tmp_path / "hosts") == Inventory(TWO, str(tmp_path / "hosts"))


def test_a_list_of_hosts_tells_all_its_faults_at_once():
    with pytest.raises(ConfigError) as raised:
        inventory_of_hosts(["node1", "-oProxyCommand=x", "Node1", "a b", "node1"], "cluster.hosts")
    told = str(raised.value)
    assert "entry 2" in told and "entry 4" in told and "host node1 is named 3 times" in told
    with pytest.raises(ConfigError, match="names no host"):
        inventory_of_hosts([], "cluster.hosts")


def test_a_list_of_hosts_keeps_its_order():
    assert inventory_of_hosts(["b", "[::1]", "a"], "cluster.hosts") == Inventory(
        (InventoryNode("b", None), InventoryNode("::1", None), InventoryNode("a", None)), "cluster.hosts"
    )


def test_two_thousand_nodes_take_milliseconds():
    content = "".join(f"rack{index // 32}-node{index:04d} slots=8\n" for index in range(2048)).encode()
    started = time.process_time()
    assert len(parse(content).nodes) == 2048
    assert time.process_time() - started < 0.5  # some 20 ms; the rest is for a machine that is shared
