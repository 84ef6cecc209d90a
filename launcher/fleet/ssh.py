"""Nodes that OpenSSH reaches."""

from collections.abc import Sequence

from launcher.fleet.placement import LinkCommand, agent_program
from launcher.shells import ssh_command
from llama_dist.config import ClusterConfig


class SshPlacement:
    """One connection a node. Closing it ends the node's agent."""

    agents_join = False
    hosts_are_on_their_way = False

    def __init__(self, cluster: ClusterConfig, hosts: Sequence[str], python: str) -> None:
        self._cluster, self._hosts, self._python = cluster, tuple(hosts), python

    def hosts(self) -> tuple[str, ...]:
        """The hosts of the inventory."""
        return self._hosts

    def links(self, hosts: Sequence[str]) -> tuple[LinkCommand, ...]:
        """One ssh a host."""
        config, seconds = self._cluster.ssh_config, self._cluster.connect_timeout_seconds
        return tuple(
            LinkCommand((host,), ssh_command(host, agent_program(self._python, host=host), config, seconds))
            for host in hosts
        )
