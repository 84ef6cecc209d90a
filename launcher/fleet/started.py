"""Nodes on which a scheduler has started this program already, once a node: Kubernetes, srun, mpirun."""

from collections.abc import Sequence
from pathlib import Path

from launcher.fleet.placement import LinkCommand, agent_program


class StartedPlacement:
    """The first node's process supervises and starts the agent of its own node; the others' agents come in."""

    agents_join = True
    hosts_are_on_their_way = True

    def __init__(self, hosts: Sequence[str], python: str, run_directory: Path) -> None:
        self._hosts, self._python, self._run_directory = tuple(hosts), python, run_directory

    def hosts(self) -> tuple[str, ...]:
        """The nodes that the scheduler has."""
        return self._hosts

    def links(self, hosts: Sequence[str]) -> tuple[LinkCommand, ...]:
        """This node's own agent."""
        own = self._hosts[0]
        if own not in hosts:
            return ()
        return (LinkCommand((own,), agent_program(self._python, host=own, join=self._run_directory)),)
