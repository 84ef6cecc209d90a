"""An attempt on the nodes of a fleet: the supervisor's asks go to every node's agent, their answers become one."""

import time
from collections.abc import Mapping, Sequence

from launcher.agent_log import WorkerFailures
from launcher.backend import AttemptSpec, NodeSpec, RankBeat
from launcher.fleet.fleet import Fleet
from launcher.fleet.node_state import NodeState

_BREAK_UP_SECONDS = 3.0  # after the first failure, for the other nodes to say what they saw
_SILENT_SECONDS = 3.0  # an agent speaks once a second
_END_SECONDS = 40.0  # an agent waits 30 s for a killed process, which may finish a disk write first


class PlacedAttempt:
    """One torchrun agent a node, each started by its node's agent."""

    def __init__(self, fleet: Fleet, spec: AttemptSpec) -> None:
        self._fleet, self._spec = fleet, spec
        self._hosts: Sequence[str] = [node.host for node in spec.nodes]
        self._lost: dict[str, str] = {}
        self._first_failed_host: str | None = None
        self._broke_at: float | None = None
        self._is_ended = False
        self._links = {host: fleet.state(host).link for host in self._hosts}
        for node in spec.nodes:
            fleet.state(node.host).begin(spec.attempt)
            fleet.tell(self._start_message(node), [node.host])

    def poll(self) -> int | None:
        """Return 0 or the first failed node's status once every node's ranks have ended, or the node is lost."""
        for host in self._hosts:
            self._look_at(self._fleet.state(host))
        now = time.monotonic()
        if self._broke_at is not None and not self._is_ended and now - self._broke_at > _BREAK_UP_SECONDS:
            self._is_ended = True
            self._tell({"do": "end"})
        if not self._has_ended():
            return None
        statuses = [self._fleet.state(host).status for host in self._hosts if host not in self._lost]
        return next((status for status in statuses if status), 1 if self._lost else 0)

    def ask_to_stop(self) -> int:
        """Ask every node's ranks."""
        self._tell({"do": "stop"})
        return self._spec.num_ranks

    def ask_to_save(self) -> int:
        """Ask every node's ranks."""
        self._tell({"do": "save"})
        return self._spec.num_ranks

    def end_now(self) -> None:
        """Let every node's agent end its ranks; one that does not answer is dropped, and ends them by itself."""
        self._is_ended = True
        self._tell({"do": "end"})
        self._fleet.wait(lambda: self.poll() is not None, _END_SECONDS)
        for host in self._hosts:
            if host not in self._lost and self._fleet.state(host).status is None:
                self._fleet.drop(host, "its agent did not end its ranks")
        self.poll()

    def failures(self) -> WorkerFailures:
        """Join what the nodes' agents saw; the ranks of a lost node are told apart."""
        statuses: dict[int, int] = {}
        oom_kills: dict[str, int] = {}
        for host in self._hosts:
            statuses |= self._fleet.state(host).failures.statuses
            oom_kills |= self._fleet.state(host).failures.oom_kills
        first = self._fleet.state(self._first_failed_host).failures if self._first_failed_host else None
        lost = {rank: self._lost[host] for host in self._lost for rank in self._ranks_of(host)}
        return WorkerFailures(statuses, first.first_failed_rank if first else min(lost, default=None), lost, oom_kills)

    def is_heard(self) -> bool:
        """Whether no node is silent or lost: that is another verdict than a hang of the ranks that wait for its own."""
        running = [state for host in self._hosts if (state := self._fleet.state(host)).status is None]
        return not self._lost and all(time.monotonic() - state.heard_at < _SILENT_SECONDS for state in running)

    def beats(self) -> Mapping[int, RankBeat]:
        """Return what the agents last told, grown older since."""
        now = time.monotonic()
        found: dict[int, RankBeat] = {}
        for host in self._hosts:
            state = self._fleet.state(host)
            found |= {rank: beat.older_by(now - state.beats_at) for rank, beat in state.beats.items()}
        return found

    def stacks(self, seconds: float) -> Mapping[int, str]:
        """Ask every node, and wait a little longer than they do for their ranks."""
        states = [self._fleet.state(host) for host in self._hosts if host not in self._lost]
        for state in states:
            state.stacks = None
        self._tell({"do": "stacks", "seconds": seconds})
        self._fleet.wait(lambda: all(state.stacks is not None for state in states), seconds + 2.0)
        return {rank: text for state in states for rank, text in (state.stacks or {}).items()}

    def _start_message(self, node: NodeSpec) -> dict[str, object]:
        return {
            "do": "start",
            "attempt": self._spec.attempt,
            "command": list(node.command),
            "environment": dict(node.environment),
            "ranks": list(node.ranks),
            "num_nodes": len(self._spec.nodes),
            "num_ranks": self._spec.num_ranks,
        }

    def _tell(self, message: dict[str, object]) -> None:
        self._fleet.tell(message, self._hosts)

    def _look_at(self, state: NodeState) -> None:
        """Notice what breaks the attempt: a lost node, a node that could not start, a failed rank."""
        if state.host in self._lost:
            return
        if state.status is None and (state.refusal or self._is_gone(state)):
            self._lost[state.host] = f"{state.host}: {state.refusal or state.lost_because}"
        elif not (state.has_failed or state.status):
            return
        elif self._first_failed_host is None and state.status:
            self._first_failed_host = state.host if not self._lost else None
        if self._broke_at is None:
            self._broke_at = time.monotonic()

    def _is_gone(self, state: NodeState) -> bool:
        """Whether the agent that started the ranks is: one that came anew has none of them."""
        return state.link is None or state.link is not self._links[state.host]

    def _has_ended(self) -> bool:
        return all(host in self._lost or self._fleet.state(host).status is not None for host in self._hosts)

    def _ranks_of(self, host: str) -> Sequence[int]:
        return self._spec.nodes[self._hosts.index(host)].ranks
