"""Which process of an attempt this is. Apart, so that a rank knows it before it imports torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """What torchrun tells a process in its environment."""

    rank: int
    local_rank: int
    world_size: int

    @classmethod
    def from_environment(cls) -> "World":
        """Read RANK, LOCAL_RANK and WORLD_SIZE; a process started alone is a world of one."""
        rank, local_rank, world_size = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
        )
        return cls(rank, local_rank, world_size)
