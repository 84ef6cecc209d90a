"""Answers for this machine without a process of its own: what a launch on one machine asks costs no start of Python."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping

from cluster.probe.answers import NodeProbe
from cluster.probe.serve import answer_of
from launcher.doctor.probe_pool import Answer, Loss, Request


class ThisMachine:
    """One node: this process. It answers at once, so the seconds of a question are not watched."""

    def __init__(self, probe: NodeProbe) -> None:
        self.lost: Mapping[str, Loss] = {}
        self._probe = probe

    def ask(self, requests: Mapping[str, Request], seconds: float, *, loses_silent: bool = True) -> dict[str, Answer]:
        """Answer the question, under whatever name the host has."""
        del seconds, loses_silent
        return {host: self._answer(request) for host, request in requests.items()}

    def _answer(self, request: Request) -> Answer:
        sent_at = time.time()
        values = json.loads(json.dumps(answer_of(self._probe, request)))  # of the form that comes through a pipe
        return Answer(values.get("answer"), values.get("fault", ""), sent_at, time.time())


@contextlib.contextmanager
def this_machine() -> Iterator[ThisMachine]:
    """Answer until the end of the block; no file of it is left then."""
    probe = NodeProbe()
    try:
        yield ThisMachine(probe)
    finally:
        probe.clean_up()
