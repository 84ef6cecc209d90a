"""One time limit over all questions, whatever each of them would like to have."""

import time
from collections.abc import Mapping

from launcher.doctor.probe_pool import Answer, Asker, Loss, Request


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

    def ask(self, requests: Mapping[str, Request], seconds: float) -> dict[str, Answer]:
        """Put one question to each host named; answers for each of them, after `seconds` at the latest."""
        return self._nodes.ask(requests, min(seconds, self.seconds_left))
