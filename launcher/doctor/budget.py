"""One time limit over all questions, whatever each of them would like to have."""

import time
from collections.abc import Mapping, Sequence

from launcher.doctor.probe_pool import Answer, Asker, Loss, Request
from launcher.doctor.result import join_hosts


class TimeUpError(Exception):
    """The time of all questions was up before one had its answers: that says nothing against a node."""

    def __init__(self, hosts: Sequence[str] = ()) -> None:
        """`hosts` did not answer in what was left; none where nobody was asked any more."""
        super().__init__("time was up before " + (f"{join_hosts(hosts)} had answered" if hosts else "this was asked"))


class Budget:
    """Asks through another one until the time is up."""

    def __init__(self, nodes: Asker, seconds: float) -> None:
        self._nodes = nodes
        self._deadline = time.monotonic() + seconds

    @property
    def lost(self) -> Mapping[str, Loss]:
        """The hosts that are lost, and why."""
        return self._nodes.lost

    @property
    def seconds_left(self) -> float:
        """What is left, 0 at the end."""
        return max(0.0, self._deadline - time.monotonic())

    def ask(self, requests: Mapping[str, Request], seconds: float, *, loses_silent: bool = True) -> dict[str, Answer]:
        """Put one question to each host named; answers for each of them, after `seconds` at the latest.

        Raises TimeUpError where less is left, and a node has not answered in that: it is not lost for it.
        """
        left = self.seconds_left
        if seconds <= left:
            return self._nodes.ask(requests, seconds, loses_silent=loses_silent)
        if not left:
            raise TimeUpError
        answers = self._nodes.ask(requests, left, loses_silent=False)
        late = [host for host, answer in answers.items() if not answer.received_at and host not in self.lost]
        if late:
            raise TimeUpError(late)
        return answers
