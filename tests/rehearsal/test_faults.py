"""Which faults are rehearsed, in which order, and whom they hit."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.rehearsal.faults import Fault, choose_host, may_be_set_aside, parse_faults
from llama_dist.config import ConfigError

HOSTS = ["node1", "node2", "node3"]


def test_all_faults_are_rehearsed_where_none_is_named():
    assert parse_faults(None) == tuple(Fault)


def test_the_order_is_the_drill_s_and_each_fault_comes_once():
    assert parse_faults("hang, kill-node,hang,kill-rank") == (Fault.KILL_NODE, Fault.KILL_RANK, Fault.HANG)


def test_an_unknown_fault_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(ConfigError, match=r"--faults kill-ranks: .* did you mean kill-rank\?.*full-disk"):
        parse_faults("hang,kill-ranks")
    with pytest.raises(ConfigError, match="names none"):
        parse_faults(" , ")
    with pytest.raises(ConfigError, match=r"nofault: there is no such fault\. Known: "):
        parse_faults("nofault")


@given(
    st.lists(st.sampled_from(HOSTS), min_size=1, unique=True),
    st.dictionaries(st.sampled_from(HOSTS), st.integers(0, 3)),
)
def test_no_host_is_hit_while_another_has_failed_less(hosts, num_failures):
    chosen = choose_host(hosts, num_failures)
    assert chosen in hosts
    assert all(num_failures.get(chosen, 0) <= num_failures.get(host, 0) for host in hosts)


def test_on_three_nodes_both_lost_nodes_can_be_seen_to_come_back():
    num_failures = Counter()
    for fault in Fault:
        host = choose_host(HOSTS, num_failures)
        num_failures[host] += 1
        assert not (fault.loses_node and may_be_set_aside(host, num_failures))
