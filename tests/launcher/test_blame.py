"""Which hosts answer for an attempt's end, and are set aside when it happens again."""

import signal

import pytest

from launcher.blame import Blame
from launcher.ends import Outcome, RankEnd

HOSTS = {0: "node1", 1: "node1", 2: "node2", 3: "node2"}


def outcome(*ends, hang="", hung_ranks=()):
    told = {end.rank: end for end in ends}
    ranks = tuple(told.get(rank, RankEnd(rank, -signal.SIGTERM, None, "", 5, host)) for rank, host in HOSTS.items())
    first = ends[0].rank if ends else None
    none = frozenset()
    return Outcome(1, ranks, first, none, none, stop_requested=False, hang=hang, hung_ranks=hung_ranks)


def set_aside_after(*outcomes):
    blame = Blame()
    for one in outcomes:
        blame.note(one, HOSTS)
    return blame.set_aside()


LOST = outcome(RankEnd(2, None, None, "", 5, "node2", "nothing was heard from it"))
KILLED = outcome(RankEnd(3, -signal.SIGKILL, None, "", 5, "node2"))
HUNG = outcome(hang="rank 2 on node2 hangs", hung_ranks=(2,))


@pytest.mark.parametrize("last", [LOST, KILLED, HUNG])
@pytest.mark.parametrize("first", [LOST, KILLED, HUNG])
def test_a_host_is_set_aside_after_two_failures_of_any_kind(first, last):
    assert set_aside_after(last) == {}
    (host, reason), *others = set_aside_after(first, last).items()
    assert host == "node2" and not others
    assert reason.startswith("set aside after 2 failures, the last: ")


def test_a_hang_tells_its_sentence_and_not_the_kill_that_ended_it():
    """The supervisor ends the ranks of a hang itself: whose process that was says nothing."""
    ended = outcome(RankEnd(0, -signal.SIGKILL, None, "", 5, "node1"), hang="rank 2 hangs", hung_ranks=(2,))
    assert set_aside_after(ended, ended) == {"node2": "set aside after 2 failures, the last: rank 2 hangs"}


@pytest.mark.parametrize("hung_ranks", [(), (0, 2), (0, 1, 2, 3)])
def test_a_hang_that_no_host_stands_out_of_is_held_against_none(hung_ranks):
    killed = outcome(RankEnd(0, -signal.SIGKILL, None, "", 5, "node1"), hang="all hang", hung_ranks=hung_ranks)
    assert set_aside_after(killed, killed) == {}


def test_a_rank_that_was_asked_to_leave_before_it_listened_is_no_hosts_fault():
    asked = outcome(RankEnd(0, -signal.SIGTERM, None, "", None, "node1"))
    assert set_aside_after(asked, asked) == {}


def test_an_error_that_a_rank_wrote_down_is_no_hosts_fault():
    failed = outcome(RankEnd(1, 1, 70, "Traceback", 5, "node1"))
    assert set_aside_after(failed, failed) == {}
