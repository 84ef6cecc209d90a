"""Nodes that mpirun reaches. It places one agent on each; the ranks themselves do not use MPI."""

from collections.abc import Sequence
from pathlib import Path

from launcher.fleet.placement import LinkCommand, agent_program


class MpiPlacement:
    """One mpirun (OpenMPI's options) with a process a node."""

    agents_join = True
    hosts_are_on_their_way = False

    def __init__(self, hosts: Sequence[str], python: str, run_directory: Path) -> None:
        self._hosts, self._python, self._run_directory = tuple(hosts), python, run_directory

    def hosts(self) -> tuple[str, ...]:
        """The hosts of the inventory."""
        return self._hosts

    def links(self, hosts: Sequence[str]) -> tuple[LinkCommand, ...]:
        """One mpirun a host: it ends all its processes when one fails, which must not take other nodes along."""
        return tuple(LinkCommand((host,), self._command(host)) for host in hosts)

    def _command(self, host: str) -> tuple[str, ...]:
        program = agent_program(self._python, host=host, join=self._run_directory)
        return ("mpirun", "--host", host, "-n", "1", "--bind-to", "none", *program)
