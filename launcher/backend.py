"""The seam between supervision and whatever starts the processes of an attempt. Starts nothing itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cluster.facts import MachineFacts
from launcher.agent_log import WorkerFailures
from llama_dist.config import RunDirectory


@dataclass(frozen=True)
class NodeSpec:
    """What one node starts. The environment is the real one: never shown, never written down."""

    host: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ranks: Sequence[int]


@dataclass(frozen=True)
class AttemptSpec:
    """All that a backend needs: one entry a node, in the order of their ranks."""

    run: RunDirectory
    attempt: int
    nodes: Sequence[NodeSpec]
    num_ranks: int
    changes: Sequence[str] = ()
    """What differs from the config that the user gave, for people."""

    @property
    def log_directory(self) -> Path:
        """Where the output of agents and ranks goes."""
        return self.run.attempt(self.attempt) / "logs"

    def agent_log(self, host: str) -> Path:
        """Output of the torchrun agent of a node."""
        return self.log_directory / ("agent.log" if len(self.nodes) == 1 else f"agent_{host}.log")


@dataclass(frozen=True)
class RankBeat:
    """The last sign of life of a rank, as its own node sees it."""

    host: str
    pid: int
    step: int
    phase: str
    micro_batch: int
    """Micro-batches of the step begun."""

    age_seconds: float
    """Since the rank wrote it, by the clock of its node."""

    process_state: str
    """Letter of /proc/PID/stat: R running, S sleeping, D waiting for a disk, T stopped, Z ended; empty: not there."""

    def older_by(self, seconds: float) -> "RankBeat":
        """The same sign of life, some time later."""
        return replace(self, age_seconds=self.age_seconds + seconds)


class RunningAttempt(Protocol):
    """The processes of one attempt."""

    def poll(self) -> int | None:
        """Return the agents' exit status once all ranks have ended, None before. Ends the rest once one has failed."""
        ...

    def ask_to_stop(self) -> int:
        """Ask each rank to save and end (SIGTERM); answers how many were asked."""
        ...

    def ask_to_save(self) -> int:
        """Ask each rank to save and go on (SIGUSR1); answers how many were asked."""
        ...

    def end_now(self) -> None:
        """End what is left, without asking; returns when it is gone."""
        ...

    def failures(self) -> WorkerFailures:
        """Return how the ranks ended, as far as the agents know. Only after `poll` gave a status."""
        ...

    def is_heard(self) -> bool:
        """Whether every node was heard of just now: what is known of the ranks of a silent one is old."""
        ...

    def beats(self) -> Mapping[int, RankBeat]:
        """Return the last sign of life of each rank of this attempt that gave one."""
        ...

    def stacks(self, seconds: float) -> Mapping[int, str]:
        """Ask each rank for the stacks of its threads; answers what came within `seconds`."""
        ...


@dataclass(frozen=True)
class Machines:
    """The machines that an attempt can have now, in the order of their ranks."""

    nodes: tuple[MachineFacts, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    """Host to reason, for those that were asked for and cannot be had."""

    master_port: int = 0
    """Port of the first node on which the workers will meet; 0 where it is chosen later."""


class Backend(Protocol):
    """Starts attempts on some kind of machines."""

    def check(self) -> None:
        """Raise ReportedError for what would make every start fail, before anything is written."""
        ...

    def gather(self, set_aside: Mapping[str, str]) -> Machines:
        """Reach the machines, without those set aside (host to reason); answers those that the next attempt has.

        Raises TooFewNodesError where they are too few.
        """
        ...

    def has_more_nodes(self) -> bool:
        """Whether machines have come back since `gather`, so that the next attempt could be larger. Never waits."""
        ...

    def start(self, spec: AttemptSpec) -> RunningAttempt:
        """Start one attempt on machines that `gather` answered; returns as soon as its agents run."""
        ...

    def take_signals(self) -> list[str]:
        """Return the names of signals that a scheduler sent to the nodes since the last call."""
        ...

    def close(self) -> None:
        """Let go of the machines."""
        ...
