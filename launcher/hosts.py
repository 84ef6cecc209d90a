"""The hosts that a cluster config means, from wherever it names them. Reaches none of them."""

from collections.abc import Mapping

from cluster.facts import MachineFacts
from llama_dist.config import ClusterConfig, ConfigError


def hosts_of(cluster: ClusterConfig, machine: MachineFacts, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Hosts in the order of their ranks; this machine alone for `local`. Raises ConfigError with every fault."""
    if cluster.backend == "local":
        return (machine.host,)
    if cluster.hosts:
        return tuple(cluster.hosts)
    raise ConfigError(f"cluster.backend {cluster.backend}: names no hosts: set cluster.hosts or cluster.hostfile")
