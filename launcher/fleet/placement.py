"""The seam to whatever reaches the nodes: ssh, srun, mpirun. A new kind of cluster is one file that answers these."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.module_command import module_command

NODE_MODULE = "launcher.node"


@dataclass(frozen=True)
class LinkCommand:
    """A program of this machine that runs the node agent on `hosts`.

    Its stdin and stdout are their channel, or else the agents come in by themselves (`Placement.agents_join`).
    """

    hosts: tuple[str, ...]
    command: tuple[str, ...]


class Placement(Protocol):
    """Knows the hosts, and how to reach them. Starts nothing itself."""

    @property
    def agents_join(self) -> bool:
        """Whether the agents connect to the supervisor, rather than being reached by a pipe."""
        ...

    @property
    def hosts_are_on_their_way(self) -> bool:
        """Whether hosts that do not answer at first are waited for: a scheduler is starting them."""
        ...

    def hosts(self) -> tuple[str, ...]:
        """Every host that the run may use, in the order of their ranks. Raises ConfigError with all faults at once."""
        ...

    def links(self, hosts: Sequence[str]) -> tuple[LinkCommand, ...]:
        """The programs to start so that each of `hosts` has an agent."""
        ...


def agent_program(python: str, *, host: str = "", join: Path | None = None) -> tuple[str, ...]:
    """Argument list of the node agent."""
    told = ("--host", host) if host else ()
    return (*module_command(python, NODE_MODULE), *told, *(("--join", str(join)) if join else ()))
