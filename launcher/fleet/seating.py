"""Makes the agents of a fleet fit to be used: the same program as here, the run's disk, no other agent beside.

A node that has a seat can be used. Chooses none, and starts nothing on them.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from functools import partial

from launcher.fleet.fleet import Fleet
from launcher.fleet.node_state import NodeState
from launcher.node.installation import compare_installations, describe_installation
from launcher.node.seat import NONCE_NAME
from launcher.records import write_text
from llama_dist.config import RunDirectory

BUSY_SECONDS = 1.0  # before a node whose former agent still ends is asked again


class Seating:
    """Gives seats in one run to the nodes of one fleet."""

    def __init__(self, fleet: Fleet, run: RunDirectory) -> None:
        self._fleet, self._run = fleet, run
        self._code = describe_installation()
        self._nonce = ""
        self._asked_at = -BUSY_SECONDS

    def drop_unfit(self, hosts: Iterable[str]) -> None:
        """Drop those that run another program, or have refused what was asked of them so far."""
        for state in map(self._fleet.state, hosts):
            difference = compare_installations(self._code, state.code) if state.stage == "greeted" else ""
            if difference:
                self._fleet.drop(state.host, f"runs another program than this machine: {difference}")
            elif state.stage in ("reaching", "greeted") and state.refusal:
                self._fleet.drop(state.host, state.refusal)

    def seat(self, hosts: Sequence[str], seconds: float) -> None:
        """Make the agents that are there the only ones of their nodes, in so many seconds; drop the others.

        An older agent has a lease to end within.
        """
        self._nonce = secrets.token_hex(16)
        self._run.nodes.mkdir(mode=0o700, exist_ok=True)
        write_text(self._run.nodes / NONCE_NAME, self._nonce)
        deadline = time.monotonic() + seconds
        while waiting := self._without_seat(hosts):
            self._ask(waiting)
            is_done = self._fleet.wait(partial(_all_have_answered, waiting), BUSY_SECONDS)
            if is_done or time.monotonic() > deadline:
                break
        for host in hosts:
            if self._fleet.state(host).stage == "greeted":
                self._fleet.drop(host, "an agent of it from before has not ended")

    def seat_meanwhile(self, hosts: Sequence[str]) -> list[str]:
        """Ask those that have come to take a seat, and answer who has one by now. Waits for nothing; after `seat`."""
        self.drop_unfit(hosts)
        if time.monotonic() - self._asked_at > BUSY_SECONDS and (waiting := self._without_seat(hosts)):
            self._ask(waiting)
        return [host for host in hosts if self._fleet.state(host).stage == "seated"]

    def _without_seat(self, hosts: Iterable[str]) -> list[NodeState]:
        states = map(self._fleet.state, hosts)
        return [state for state in states if state.stage == "greeted" and not state.refusal]

    def _ask(self, waiting: Iterable[NodeState]) -> None:
        self._asked_at = time.monotonic()
        message = {"do": "sit", "run_directory": str(self._run.path), "nonce": self._nonce}
        self._fleet.tell(message, [state.host for state in waiting])


def _all_have_answered(states: Sequence[NodeState]) -> bool:
    return all(state.stage != "greeted" or state.refusal for state in states)
