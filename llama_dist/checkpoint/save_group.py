"""Those who write one checkpoint together: the ranks of a run, or one process alone. How they agree, no more."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.runtime.fence import FencedError
from llama_dist.runtime.process_group import all_gather_json
from llama_dist.runtime.world import World

_SHORTEST_TIMEOUT_SECONDS = 1800.0
"""A rank may be this much slower than another in writing its file; one that died is noticed at once."""

Outcome = dict[str, Any]
"""What one step of a save came to: {"result": value}, {"error": text}, or {"fenced": text} in an old attempt."""

NOTHING: Outcome = {"result": None}
"""The outcome of a member that had nothing to do."""


@dataclass(frozen=True)
class SaveGroup:
    """One member's view of the group."""

    world: World

    is_leader: bool
    """Whether this member makes and publishes the directory: one member for each disk that the group writes to."""

    host: str

    gather: Callable[[Any], list[Any]]
    """Collective. Every member's value, in rank order; values are plain JSON."""

    @classmethod
    def alone(cls) -> "SaveGroup":
        """One process without a process group."""
        return cls(World(0, 0, 1), is_leader=True, host=socket.gethostname(), gather=lambda value: [value])

    @classmethod
    def of_all_ranks(cls) -> "SaveGroup":
        """The ranks of the default process group, over one disk."""
        rank, size = distributed.get_rank(), distributed.get_world_size()
        return cls(World(rank, rank, size), is_leader=rank == 0, host=socket.gethostname(), gather=all_gather_json)

    @classmethod
    def beside_training(cls, world: World, timeout_seconds: float, *, is_shared: bool) -> "SaveGroup":
        """Collective. The ranks of a run over a process group of their own, which no collective of the training meets.

        Without `is_shared` the disks are the nodes' own, and each has its leader.
        """
        timeout = timedelta(seconds=max(timeout_seconds, _SHORTEST_TIMEOUT_SECONDS))
        group = distributed.new_group(backend="gloo", timeout=timeout)
        is_leader = world.rank == 0 if is_shared else world.local_rank == 0
        return cls(world, is_leader, socket.gethostname(), gather=lambda value: all_gather_json(value, group))

    @property
    def rank(self) -> int:
        """This member's number."""
        return self.world.rank

    def agree(self, outcome: Outcome) -> list[Any]:
        """Collective. Every member's result.

        Raises CheckpointError on every member if any of them failed, FencedError if their attempt is over.
        """
        outcomes = self.gather(outcome)
        fenced = next((one["fenced"] for one in outcomes if "fenced" in one), None)
        if fenced:
            raise FencedError(fenced)
        failed = [f"rank {rank}: {one['error']}" for rank, one in enumerate(outcomes) if "error" in one]
        if failed:
            raise CheckpointError(
                f"the checkpoint was not written: {'; '.join(failed)}: free or mend that disk; the older ones stand"
            )
        return [one["result"] for one in outcomes]


def attempt(function: Callable[..., Any], *arguments: Any) -> Outcome:
    """Run one step of a save; what the disk refuses becomes a value that all members can share."""
    try:
        return {"result": function(*arguments)}
    except FencedError as error:
        return {"fenced": str(error)}
    except OSError as error:
        about = next((one for one in arguments if isinstance(one, Path)), "checkpoint")
        return {"error": f"{error.filename or about}: {error.strerror or error}"}
