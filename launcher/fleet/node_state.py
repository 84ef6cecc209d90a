"""What the supervisor knows of one node, from the messages of its agent. Sends nothing."""

import time
from dataclasses import dataclass, field
from typing import Literal

from cluster.facts import MachineFacts
from launcher.agent_log import WorkerFailures
from launcher.backend import RankBeat
from launcher.fleet.link import Link
from launcher.node.messages import Message, beats_from_json, facts_from_json, failures_from_json

Stage = Literal["absent", "reaching", "greeted", "seated"]


@dataclass
class NodeState:
    """One host. `reason` says why it is absent."""

    host: str
    stage: Stage = "absent"
    reason: str = "not reached yet"
    link: Link | None = None
    lost_because: str = ""
    """Why the link before this one, or the last one, was given up."""

    heard_at: float = 0.0
    facts: MachineFacts | None = None
    code: dict[str, str] = field(default_factory=dict)
    is_busy: bool = False
    refusal: str = ""
    """What the agent refused to do, and why."""

    port: int | None = None
    attempt: int = 0
    beats: dict[int, RankBeat] = field(default_factory=dict)
    beats_at: float = 0.0
    has_failed: bool = False
    status: int | None = None
    """Status of the torchrun agent of `attempt`, once it has ended."""

    failures: WorkerFailures = field(default_factory=WorkerFailures)
    stacks: dict[int, str] | None = None

    def move(self, stage: Stage, reason: str = "") -> None:
        """Enter a stage."""
        self.stage, self.reason = stage, reason

    def begin(self, attempt: int) -> None:
        """Forget the attempt before, with what the node could not do then: a full disk may have room again."""
        self.attempt, self.beats, self.has_failed, self.status = attempt, {}, False, None
        self.failures, self.stacks, self.refusal = WorkerFailures(), None, ""

    def hear(self, message: Message) -> None:
        """Take in one message of the agent. Raises KeyError, TypeError or ValueError for one that is none of ours."""
        self.heard_at = time.monotonic()
        match message["say"]:
            case "hello":
                self.facts, self.code = facts_from_json(message["facts"]), dict(message["code"])
                if self.stage == "reaching":
                    self.move("greeted")
            case "seated":
                self.is_busy = False
                self.move("seated")
            case "busy":
                self.is_busy = True
            case "refused":
                self.refusal = str(message["reason"])
            case "port":
                self.port = int(message["port"])
            case "alive" | "ended" | "stacks" if message["attempt"] == self.attempt:
                self._hear_of_attempt(message)

    def _hear_of_attempt(self, message: Message) -> None:
        match message["say"]:
            case "alive":
                self.beats, self.beats_at = beats_from_json(message["beats"]), self.heard_at
                self.has_failed = self.has_failed or bool(message["has_failed"])
            case "ended":
                self.failures = failures_from_json(message["failures"])
                self.status = int(message["status"])
            case "stacks":
                self.stacks = {int(rank): str(text) for rank, text in message["stacks"].items()}
