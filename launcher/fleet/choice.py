"""Which of the nodes that are there an attempt gets. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_dist.config import ClusterConfig, ConfigError


@dataclass(frozen=True)
class NodeNeeds:
    """Fewest and most nodes of an attempt."""

    fewest: int
    most: int

    @classmethod
    def of(cls, cluster: ClusterConfig, num_hosts: int) -> "NodeNeeds":
        """From the cluster's config. Raises ConfigError where the hosts can never be enough."""
        regular = num_hosts - cluster.spare_nodes
        if regular < 1:
            raise ConfigError(
                f"cluster.spare_nodes {cluster.spare_nodes} of {num_hosts} host(s) leaves none to train on: use fewer"
            )
        most = min(cluster.nodes.max, regular) if cluster.nodes else regular
        fewest = cluster.nodes.min if cluster.nodes else regular
        if fewest > most:
            raise ConfigError(
                f"cluster.nodes.min {fewest}, but there are {num_hosts} host(s), of which {cluster.spare_nodes} are "
                f"spare: use at most {regular}, or name more hosts"
            )
        return cls(fewest, most)


def choose_nodes(ready: Sequence[str], hosts: Sequence[str], needs: NodeNeeds) -> tuple[str, ...]:
    """The first `needs.most` of `hosts` that are ready, in their order: spares come last and fill the gaps."""
    there = set(ready)
    return tuple(host for host in hosts if host in there)[: needs.most]
