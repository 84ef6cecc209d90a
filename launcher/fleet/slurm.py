"""Nodes of the Slurm allocation that this process runs in."""

from collections.abc import Sequence
from pathlib import Path

from launcher.fleet.placement import LinkCommand, agent_program
from launcher.shells import srun_command


class SlurmPlacement:
    """One job step with a task a node. A step of one node more brings a lost one back."""

    agents_join = True
    hosts_are_on_their_way = False

    def __init__(self, hosts: Sequence[str], python: str, run_directory: Path) -> None:
        self._hosts, self._python, self._run_directory = tuple(hosts), python, run_directory
        self._has_begun = False

    def hosts(self) -> tuple[str, ...]:
        """The allocation's nodes."""
        return self._hosts

    def links(self, hosts: Sequence[str]) -> tuple[LinkCommand, ...]:
        """One srun for all at first; later one for each, since Slurm refuses a whole step for one node that is down."""
        program = agent_program(self._python, join=self._run_directory)
        steps = [(host,) for host in hosts] if self._has_begun else [tuple(hosts)]
        self._has_begun = True
        return tuple(LinkCommand(step, srun_command(step, program)) for step in steps)
