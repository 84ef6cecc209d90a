"""Which attempt of which run a process belongs to. A record alone."""

import time
from dataclasses import dataclass, field

from llama_dist.config import RunDirectory
from llama_dist.runtime.fence import Fence
from llama_dist.runtime.world import World


@dataclass(frozen=True)
class Attempt:
    """Which attempt of which run this process belongs to."""

    run: RunDirectory
    number: int
    world: World

    started: float = field(default_factory=time.monotonic)
    """`time.monotonic()` of when the process began, nearly."""

    @property
    def fence(self) -> Fence:
        """What keeps this attempt from writing once it is over."""
        return Fence(self.run, self.number)
