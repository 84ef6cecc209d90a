"""The hosts that a cluster config means, from wherever it names them. Reaches none of them."""

from collections.abc import Mapping
from pathlib import Path

from cluster.hostfile import read_hostfile
from cluster.inventory import Inventory, InventoryNode, inventory_of_hosts
from cluster.scheduler import read_started
from cluster.slurm_environment import read_slurm_allocation
from cluster.started import Started
from llama_dist.config import ClusterConfig, ConfigError


def inventory_of(cluster: ClusterConfig, this_host: str, environment: Mapping[str, str]) -> Inventory:
    """Nodes in the order of their ranks; this machine alone for `local`. Raises ConfigError with every fault."""
    if cluster.hosts and cluster.hostfile:
        raise ConfigError("cluster.hosts and cluster.hostfile both name nodes: leave one of them out")
    match cluster.backend:
        case "local":
            return Inventory((InventoryNode(this_host, None),), "this machine")
        case "slurm":
            return read_slurm_allocation(environment) or _job_to_come(cluster)
        case "kubernetes":
            count = cluster.kubernetes.num_nodes if cluster.kubernetes else 1
            return _numbered(count, "the job to come")
        case "started":
            return _inventory_of_started(required_started(environment))
    if cluster.hostfile:
        return read_hostfile(Path(cluster.hostfile))
    if cluster.hosts:
        return inventory_of_hosts(cluster.hosts, "cluster.hosts")
    raise ConfigError(f"cluster.backend {cluster.backend}: names no hosts: set cluster.hosts or cluster.hostfile")


def with_slots(cluster: ClusterConfig, inventory: Inventory) -> ClusterConfig:
    """Take the processes of a node from the inventory where the config does not say. Raises ConfigError."""
    slots = {node.num_slots for node in inventory.nodes}
    if cluster.num_processes_per_node is not None or slots == {None}:
        return cluster
    if len(slots) > 1:
        told = ", ".join(f"{node.host} {node.num_slots}" for node in inventory.nodes[:8])
        raise ConfigError(
            f"{inventory.source}: the nodes have different numbers of slots ({told}), a run needs the same on each: "
            "set cluster.num_processes_per_node"
        )
    return cluster.model_copy(update={"num_processes_per_node": slots.pop()})


def required_started(environment: Mapping[str, str]) -> Started:
    """What this process is in a job that is started already. Raises ConfigError where no scheduler says so."""
    started = read_started(environment)
    if started is None:
        raise ConfigError(
            "cluster.backend started: no variable of torchrun, Slurm, MPI or Kubernetes says what this process is: "
            "start it once a node by one of them, or use another backend"
        )
    return started


def is_outside_allocation(cluster: ClusterConfig, environment: Mapping[str, str]) -> bool:
    """Whether a launch would have to submit itself to Slurm first."""
    return cluster.backend == "slurm" and read_slurm_allocation(environment) is None


def _job_to_come(cluster: ClusterConfig) -> Inventory:
    regular = cluster.nodes.max if cluster.nodes else 1
    return _numbered(cluster.slurm.num_nodes or regular + cluster.spare_nodes, "the job to come")


def _inventory_of_started(started: Started) -> Inventory:
    if started.hosts:
        return inventory_of_hosts(started.hosts, f"the environment of {started.scheduler}")
    return _numbered(started.num_nodes, f"the environment of {started.scheduler}")


def _numbered(count: int, source: str) -> Inventory:
    return Inventory(tuple(InventoryNode(f"node{number}", None) for number in range(count)), source)
