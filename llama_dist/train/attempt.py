"""Which attempt of which run a process belongs to. A record alone."""

from dataclasses import dataclass

from llama_dist.config import RunDirectory
from llama_dist.runtime.process_group import World


@dataclass(frozen=True)
class Attempt:
    """Which attempt of which run this process belongs to."""

    run: RunDirectory
    number: int
    world: World
