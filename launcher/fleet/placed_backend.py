"""Starts attempts on the nodes of a placement, whatever reaches them. Chooses which nodes, and refuses too few."""

import contextlib
import socket
import time
from collections.abc import Mapping, Sequence

from launcher.backend import AttemptSpec, Machines
from launcher.errors import TooFewNodesError
from launcher.fleet.choice import NodeNeeds, choose_nodes
from launcher.fleet.fleet import Fleet, FleetTimes
from launcher.fleet.listener import Listener
from launcher.fleet.placed_attempt import PlacedAttempt
from launcher.fleet.placement import Placement
from launcher.fleet.seating import BUSY_SECONDS, Seating
from llama_dist.config import ClusterConfig, ConfigError, RunDirectory

_RETURN_SECONDS = 3.0  # for a node that was lost to answer, where there are enough without it


class PlacedBackend:
    """Nodes that ssh, srun or mpirun reaches."""

    def __init__(self, placement: Placement, cluster: ClusterConfig, run: RunDirectory) -> None:
        self._cluster, self._run = cluster, run
        self._fleet = Fleet(placement, FleetTimes(cluster.connect_timeout_seconds, cluster.node_timeout_seconds))
        self._needs = NodeNeeds.of(cluster, len(self._fleet.hosts))
        self._seating = Seating(self._fleet, run)
        self._placement = placement
        self._listener: Listener | None = None
        self._in_use: tuple[str, ...] = ()
        self._set_aside: Mapping[str, str] = {}
        self._reached_at = 0.0
        self._is_checked = self._is_closed = False

    def check(self) -> None:
        """Reach every node. Raises ConfigError with all that cannot be used, where the rest is too few.

        Where the agents come by themselves it opens the door to them: only who holds the run may.
        """
        if self._placement.hosts_are_on_their_way:
            return
        self._greet({})
        present = [host for host in self._fleet.hosts if host not in self._absent()]
        if len(present) < self._needs.fewest:
            raise ConfigError(
                f"{len(present)} of {len(self._fleet.hosts)} node(s) can be used, the run needs "
                f"{self._needs.fewest}:\n  "
                + "\n  ".join(f"{host}: {why}" for host, why in self._absent().items())
                + self._way_in()
            )
        if self._cluster.rendezvous_port is not None:
            self._port_of(present[0])
        self._is_checked = True

    def gather(self, set_aside: Mapping[str, str]) -> Machines:
        """Reach the nodes, make sure that each has one agent alone, and choose."""
        self._set_aside = dict(set_aside)
        self._greet(set_aside)
        self._seating.seat(self._usable(set_aside), self._cluster.node_timeout_seconds + BUSY_SECONDS)
        ready = [host for host in self._usable(set_aside) if self._fleet.state(host).stage == "seated"]
        chosen = choose_nodes(ready, self._fleet.hosts, self._needs)
        absent = {**self._absent(), **set_aside}
        if len(chosen) < self._needs.fewest:
            told = "".join(f"\n  {host}: {why}" for host, why in absent.items())
            raise TooFewNodesError(
                f"{len(chosen)} node(s) can be used, the run needs {self._needs.fewest}:{told}{self._way_in()}"
            )
        facts = tuple(state.facts for host in chosen if (state := self._fleet.state(host)).facts)
        machines = Machines(facts, absent, self._port_of(chosen[0]))
        self._in_use, self._is_checked = chosen, True
        return machines

    def has_more_nodes(self) -> bool:
        """Whether a node that can be used has come back; looks for them now and then."""
        if len(self._in_use) >= self._needs.most:
            return False
        others = [host for host in self._usable(self._set_aside) if host not in self._in_use]
        if time.monotonic() - self._reached_at > self._cluster.node_timeout_seconds:
            self._reached_at = time.monotonic()
            with contextlib.suppress(ConfigError):  # the running attempt has its nodes
                self._reach(others)
        returned = self._seating.seat_meanwhile(others)
        return len(choose_nodes([*self._in_use, *returned], self._fleet.hosts, self._needs)) > len(self._in_use)

    def start(self, spec: AttemptSpec) -> PlacedAttempt:
        """Tell the agents of the spec's nodes to start."""
        return PlacedAttempt(self._fleet, spec)

    def take_signals(self) -> list[str]:
        """Names of the signals that a scheduler sent to the nodes since the last call."""
        return self._fleet.take_signals()

    def close(self) -> None:
        """Let the agents leave; once is enough."""
        if self._is_closed:
            return
        self._is_closed = True
        self._fleet.close()
        if self._listener:
            self._listener.close()

    def _usable(self, set_aside: Mapping[str, str]) -> list[str]:
        return [host for host in self._fleet.hosts if host not in set_aside]

    def _absent(self) -> dict[str, str]:
        states = [self._fleet.state(host) for host in self._fleet.hosts]
        absent = {state.host: state.reason for state in states if state.stage == "absent"}
        return absent | {state.host: "does not answer yet" for state in states if state.stage == "reaching"}

    def _way_in(self) -> str:
        """Where agents look for this supervisor, if none came but those of this very host: they may not get there."""
        here = socket.gethostname().partition(".")[0]
        others = [host for host in self._fleet.hosts if host.partition(".")[0] not in (here, "localhost")]
        states = [self._fleet.state(host) for host in others]
        if self._listener is None or not states or any(state.facts or state.lost_because for state in states):
            return ""
        return (
            f"\n  agents look for this supervisor at {self._listener.address}: if the nodes cannot reach that, set "
            "MASTER_ADDR to a name or address of the first node, by which this machine finds the way to them"
        )

    def _listen(self) -> None:
        """Open the door for agents that come by themselves. They look for it in the run directory."""
        if self._placement.agents_join and self._listener is None:
            self._listener = Listener(self._run, self._fleet.hosts, self._fleet.add)

    def _reach(self, hosts: Sequence[str]) -> None:
        """Open links anew where there are none. Raises ConfigError where this machine has no program for that."""
        for state in map(self._fleet.state, hosts):
            if state.stage == "absent":
                state.refusal = ""  # the agent that comes now has refused nothing yet
        try:
            self._fleet.reach(hosts)
        except (FileNotFoundError, PermissionError) as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}: cluster.backend {self._cluster.backend} starts this program on "
                "the machine of the launch: install it, or put its directory into PATH"
            ) from None

    def _greet(self, set_aside: Mapping[str, str]) -> None:
        """Reach the nodes, wait until each has answered or cannot, and drop those that run another program."""
        self._listen()
        hosts = self._usable(set_aside)
        states = [self._fleet.state(host) for host in hosts]
        self._reached_at = time.monotonic()
        self._reach(hosts)
        began, is_first = self._reached_at, not self._in_use

        def is_enough() -> bool:
            """All have answered; or enough have, and the rest, which were lost before, had a moment to come back."""
            answered = [state for state in states if state.stage in ("greeted", "seated")]
            is_late = not is_first and time.monotonic() - began > _RETURN_SECONDS
            all_known = all(state.stage != "reaching" or state.refusal for state in states)
            return all_known or (is_late and len(answered) >= self._needs.fewest)

        self._fleet.wait(is_enough, self._cluster.connect_timeout_seconds + BUSY_SECONDS)
        self._seating.drop_unfit(hosts)

    def _port_of(self, host: str) -> int:
        """A port on which the node can be met. Raises ConfigError where the configured one is taken at the start.

        Later it raises TooFewNodesError: an attempt that ends, or a doctor, may hold it for a moment.
        """
        state = self._fleet.state(host)
        state.port, state.refusal = None, ""
        self._fleet.tell({"do": "port", "wanted": self._cluster.rendezvous_port}, [host])
        self._fleet.wait(
            lambda: state.port is not None or bool(state.refusal) or state.stage == "absent",
            self._cluster.node_timeout_seconds,
        )
        refusal, state.refusal = state.refusal, ""
        if refusal:
            raise TooFewNodesError(refusal) if self._is_checked else ConfigError(refusal)
        if state.port is None:
            raise TooFewNodesError(f"{host}: {state.reason or 'did not answer'}: it would hold the rendezvous")
        return state.port
