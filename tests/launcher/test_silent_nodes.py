"""A node that says nothing is lost after a while; until then nobody is taken for hung."""

import pytest

from launcher.backend import RankBeat
from launcher.hang_guard import HangGuard
from launcher.hang_watch import HangWatch
from llama_dist.config import SupervisionConfig

LIMITS = SupervisionConfig(hang_timeout_min_seconds=10.0)


class StillAttempt:
    """Ranks on two nodes that train until second 20 and then show no progress."""

    def __init__(self):
        self.now, self.silent_from, self.silent_to = 0.0, 0.0, 0.0

    def is_heard(self):
        return not self.silent_from <= self.now < self.silent_to

    def beats(self):
        step = int(min(self.now, 20.0))
        return {rank: RankBeat(f"node{rank}", 100 + rank, step, "train", 0, 0.0, "S") for rank in range(2)}

    def stacks(self, _seconds):
        return {}


def second_of_verdict(attempt, tmp_path, last_second=100):
    guard = HangGuard(HangWatch(LIMITS, 2), attempt, tmp_path, lambda: attempt.now)
    for half_second in range(2 * last_second):
        attempt.now = half_second / 2
        if guard.look():
            return attempt.now
    return None


def test_a_stall_where_all_nodes_are_heard_is_a_hang(tmp_path):
    assert second_of_verdict(StillAttempt(), tmp_path) == pytest.approx(28, abs=1)


def test_a_stall_while_a_node_is_silent_is_none(tmp_path):
    attempt = StillAttempt()
    attempt.silent_from, attempt.silent_to = 23.0, 1000.0
    assert second_of_verdict(attempt, tmp_path) is None


def test_the_clock_goes_on_once_the_node_is_heard_again(tmp_path):
    attempt = StillAttempt()
    attempt.silent_from, attempt.silent_to = 21.0, 60.0
    verdict = second_of_verdict(attempt, tmp_path)
    assert verdict is not None and 60 <= verdict < 70
