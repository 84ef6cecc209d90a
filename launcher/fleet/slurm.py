"""Nodes of the Slurm allocation that this process runs in."""

from collections.abc import Sequence
from pathlib import Path

from launcher.fleet.placement import LinkCommand, agent_program
from launcher.shells import srun_command


class SlurmPlacement:
    """One job step with a task a node. A step of one node more brings a lost one back."""

    agents_join = True

    def __init__(self, hosts: Sequence[str], python: str, run_directory: Path) -> None:
        self._hosts, self._python, self._run_directory = tuple(hosts), python, run_directory

    def hosts(self) -> tuple[str, ...]:
        """The allocation's nodes."""
        return self._hosts

    def links(self, hosts: Sequence[str]) -> tuple[LinkCommand, ...]:
        """One srun for all."""
        program = agent_program(self._python, join=self._run_directory)
        return (LinkCommand(tuple(hosts), srun_command(hosts, program)),)
