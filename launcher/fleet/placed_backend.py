"""Starts attempts on the nodes of a placement, whatever reaches them. Chooses which nodes, and refuses too few."""

import secrets
import time
from collections.abc import Mapping

from launcher.backend import AttemptSpec, Machines
from launcher.errors import TooFewNodesError
from launcher.fleet.choice import NodeNeeds, choose_nodes
from launcher.fleet.fleet import Fleet, FleetTimes
from launcher.fleet.listener import Listener
from launcher.fleet.placed_attempt import PlacedAttempt
from launcher.fleet.placement import Placement
from launcher.node.installation import compare_installations, describe_installation
from launcher.node.seat import NONCE_NAME
from launcher.records import write_text
from llama_dist.config import ClusterConfig, ConfigError, RunDirectory

_BUSY_SECONDS = 1.0  # before a node whose former agent still ends is asked again
_RETURN_SECONDS = 3.0  # for a node that was lost to answer, where there are enough without it


class PlacedBackend:
    """Nodes that ssh, srun or mpirun reaches."""

    def __init__(self, placement: Placement, cluster: ClusterConfig, run: RunDirectory) -> None:
        self._cluster, self._run = cluster, run
        self._fleet = Fleet(placement, FleetTimes(cluster.connect_timeout_seconds, cluster.node_timeout_seconds))
        self._needs = NodeNeeds.of(cluster, len(self._fleet.hosts))
        self._code = describe_installation()
        self._placement = placement
        self._listener: Listener | None = None
        self._in_use: tuple[str, ...] = ()
        self._set_aside: Mapping[str, str] = {}
        self._reached_at = 0.0

    def check(self) -> None:
        """Reach every node. Raises ConfigError with all that cannot be used, where the rest is too few."""
        if self._placement.hosts_are_on_their_way:
            return
        self._greet({})
        present = [host for host in self._fleet.hosts if host not in self._absent()]
        if len(present) < self._needs.fewest:
            raise ConfigError(
                f"{len(present)} of {len(self._fleet.hosts)} node(s) can be used, the run needs "
                f"{self._needs.fewest}:\n  " + "\n  ".join(f"{host}: {why}" for host, why in self._absent().items())
            )
        if self._cluster.rendezvous_port is not None:
            self._port_of(present[0])

    def gather(self, set_aside: Mapping[str, str]) -> Machines:
        """Reach the nodes, make sure that each has one agent alone, and choose."""
        self._set_aside = dict(set_aside)
        self._greet(set_aside)
        self._sit(set_aside)
        ready = [host for host in self._usable(set_aside) if self._fleet.state(host).stage == "seated"]
        chosen = choose_nodes(ready, self._fleet.hosts, self._needs)
        absent = {**self._absent(), **set_aside}
        if len(chosen) < self._needs.fewest:
            told = "".join(f"\n  {host}: {why}" for host, why in absent.items())
            raise TooFewNodesError(f"{len(chosen)} node(s) can be used, the run needs {self._needs.fewest}:{told}")
        self._in_use = chosen
        facts = tuple(state.facts for host in chosen if (state := self._fleet.state(host)).facts)
        return Machines(facts, absent, self._port_of(chosen[0]))

    def has_more_nodes(self) -> bool:
        """Whether a node has come back that the attempt could have had; looks for them now and then."""
        if len(self._in_use) >= self._needs.most:
            return False
        usable = [host for host in self._usable(self._set_aside) if host not in self._in_use]
        if time.monotonic() - self._reached_at > self._cluster.node_timeout_seconds:
            self._reached_at = time.monotonic()
            self._fleet.reach(usable)
        returned = [host for host in usable if self._fleet.state(host).stage in ("greeted", "seated")]
        return len(choose_nodes([*self._in_use, *returned], self._fleet.hosts, self._needs)) > len(self._in_use)

    def start(self, spec: AttemptSpec) -> PlacedAttempt:
        """Tell the agents of the spec's nodes to start."""
        return PlacedAttempt(self._fleet, spec)

    def take_signals(self) -> list[str]:
        """Names of the signals that a scheduler sent to the nodes since the last call."""
        return self._fleet.take_signals()

    def close(self) -> None:
        """Let the agents leave."""
        self._fleet.close()
        if self._listener:
            self._listener.close()

    def _usable(self, set_aside: Mapping[str, str]) -> list[str]:
        return [host for host in self._fleet.hosts if host not in set_aside]

    def _absent(self) -> dict[str, str]:
        states = [self._fleet.state(host) for host in self._fleet.hosts]
        absent = {state.host: state.reason for state in states if state.stage == "absent"}
        return absent | {state.host: "does not answer yet" for state in states if state.stage == "reaching"}

    def _listen(self) -> None:
        """Open the door for agents that come by themselves. They look for it in the run directory."""
        if self._placement.agents_join and self._listener is None:
            self._listener = Listener(self._run, self._fleet.hosts, self._fleet.add)

    def _greet(self, set_aside: Mapping[str, str]) -> None:
        """Reach the nodes, wait until each has answered or cannot, and drop those that run another program."""
        self._listen()
        states = [self._fleet.state(host) for host in self._usable(set_aside)]
        self._reached_at = time.monotonic()
        self._fleet.reach(state.host for state in states)
        began, is_first = self._reached_at, not self._in_use

        def is_enough() -> bool:
            """All have answered; or enough have, and the rest, which were lost before, had a moment to come back."""
            answered = [state for state in states if state.stage in ("greeted", "seated")]
            is_late = not is_first and time.monotonic() - began > _RETURN_SECONDS
            all_known = all(state.stage != "reaching" or state.refusal for state in states)
            return all_known or (is_late and len(answered) >= self._needs.fewest)

        self._fleet.wait(is_enough, self._cluster.connect_timeout_seconds + _BUSY_SECONDS)
        for state in states:
            difference = compare_installations(self._code, state.code) if state.stage == "greeted" else ""
            if difference:
                self._fleet.drop(state.host, f"runs another program than this machine: {difference}")
            elif state.stage == "reaching" and state.refusal:
                self._fleet.drop(state.host, state.refusal)

    def _sit(self, set_aside: Mapping[str, str]) -> None:
        """Make the agents that are there the only ones of their nodes; an older one has a lease to end within."""
        nonce = secrets.token_hex(16)
        self._run.nodes.mkdir(mode=0o700, exist_ok=True)
        write_text(self._run.nodes / NONCE_NAME, nonce)
        states = [self._fleet.state(host) for host in self._usable(set_aside)]
        deadline = time.monotonic() + self._cluster.node_timeout_seconds + _BUSY_SECONDS
        while waiting := [one for one in states if one.stage == "greeted" and not one.refusal]:
            self._fleet.tell(
                {"do": "sit", "run_directory": str(self._run.path), "nonce": nonce}, [one.host for one in waiting]
            )
            is_done = self._fleet.wait(
                lambda: all(one.stage != "greeted" or one.refusal for one in waiting), _BUSY_SECONDS
            )
            if is_done or time.monotonic() > deadline:
                break
        for state in states:
            if state.stage == "greeted":
                self._fleet.drop(state.host, "an agent of it from before has not ended")

    def _port_of(self, host: str) -> int:
        """A port on which the node can be met. Raises ConfigError where the configured one is taken."""
        state = self._fleet.state(host)
        state.port, state.refusal = None, ""
        self._fleet.tell({"do": "port", "wanted": self._cluster.rendezvous_port}, [host])
        self._fleet.wait(
            lambda: state.port is not None or bool(state.refusal) or state.stage == "absent",
            self._cluster.node_timeout_seconds,
        )
        if state.refusal:
            raise ConfigError(state.refusal)
        if state.port is None:
            raise TooFewNodesError(f"{host}: {state.reason or 'did not answer'}: it would hold the rendezvous")
        return state.port
