"""Those who write one checkpoint together: the ranks of a run, or one process alone. How they agree, no more."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import distributed

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.runtime.process_group import all_gather_json

Outcome = dict[str, Any]
"""What one step of a save came to: {"result": value} or {"error": text}."""

NOTHING: Outcome = {"result": None}
"""The outcome of a member that had nothing to do."""


@dataclass(frozen=True)
class SaveGroup:
    """One member's view of the group."""

    rank: int

    is_leader: bool
    """Whether this member makes and publishes the directory: one member for each disk that the group writes to."""

    host: str

    gather: Callable[[Any], list[Any]]
    """Collective. Every member's value, in rank order; values are plain JSON."""

    @classmethod
    def alone(cls) -> "SaveGroup":
        """One process without a process group."""
        return cls(0, is_leader=True, host=socket.gethostname(), gather=lambda value: [value])

    @classmethod
    def of_ranks(cls, *, is_leader: bool, group: distributed.ProcessGroup | None = None) -> "SaveGroup":
        """All ranks of `group`, by default of the run; needs CPU collectives."""
        rank = distributed.get_rank(group)
        return cls(rank, is_leader, socket.gethostname(), gather=lambda value: all_gather_json(value, group))

    def agree(self, outcome: Outcome) -> list[Any]:
        """Collective. Every member's result. Raises CheckpointError on every member if any of them failed."""
        outcomes = self.gather(outcome)
        failed = [f"rank {rank}: {one['error']}" for rank, one in enumerate(outcomes) if "error" in one]
        if failed:
            raise CheckpointError("the checkpoint was not written: " + "; ".join(failed))
        return [one["result"] for one in outcomes]


def attempt(function: Callable[..., Any], *arguments: Any) -> Outcome:
    """Run one step of a save; what the disk refuses becomes a value that all members can share."""
    try:
        return {"result": function(*arguments)}
    except OSError as error:
        return {"error": f"{error.filename or 'checkpoint'}: {error.strerror or error}"}
