"""Nodes without agents: a test speaks for each at the other end of a socket, and hears what the supervisor says."""

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.backend import AttemptSpec, NodeSpec
from launcher.fleet.fleet import Fleet, FleetTimes
from launcher.fleet.link import SocketLink
from launcher.fleet.placement import LinkCommand
from launcher.node.messages import LineBuffer, encode
from llama_dist.config import RunDirectory

SOON = 20.0  # on a busy machine; an idle one takes milliseconds


@dataclass
class FakePlacement:
    """Hosts whose agents come in by themselves; `program` is what is started to make one come."""

    names: Sequence[str]
    program: tuple[str, ...] = ()
    agents_join: bool = True
    hosts_are_on_their_way: bool = False

    def hosts(self):
        return tuple(self.names)

    def links(self, hosts):
        return tuple(LinkCommand((host,), self.program) for host in hosts) if self.program else ()


class FakeAgent:
    """Comes in for a host, and says what it is told to."""

    def __init__(self, fleet: Fleet, host: str):
        self.host = host
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(SOON)
        self._lines, self._messages = LineBuffer(), []
        fleet.add(SocketLink(host, theirs))

    def say(self, what, **values):
        self._connection.sendall(encode({"say": what, "host": self.host, **values}))

    def hear(self, do):
        """Return the next message that asks for this, past all others."""
        deadline = time.monotonic() + SOON
        while True:
            while self._messages:
                if (message := self._messages.pop(0))["do"] == do:
                    return message
            assert time.monotonic() < deadline, f"no `{do}` came"
            data = self._connection.recv(1 << 16)
            assert data, f"the link was closed before `{do}`"
            self._messages += self._lines.take(data)

    def is_shut_out(self):
        """Whether the supervisor ends the link rather than greeting over it."""
        try:
            return not self._connection.recv(1 << 16)
        except ConnectionError:
            return True

    def leave(self):
        self._connection.close()


@contextlib.contextmanager
def fleet_of(*hosts, silence_seconds=600.0, connect_seconds=600.0, program=()):
    """A fleet whose nodes are not there yet."""
    fleet = Fleet(FakePlacement(hosts, program), FleetTimes(connect_seconds, silence_seconds))
    try:
        yield fleet
    finally:
        fleet.close()


def attempt_on(hosts, path: Path, number=1) -> AttemptSpec:
    """One rank a node."""
    nodes = [NodeSpec(host, ["true"], {}, [rank]) for rank, host in enumerate(hosts)]
    return AttemptSpec(RunDirectory(path), number, nodes, len(hosts))
