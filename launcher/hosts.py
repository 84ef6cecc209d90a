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
            return _inventory_of_started(cluster, environment)
    named = _named_hosts(cluster)
    if named is None:
        raise ConfigError(f"cluster.backend {cluster.backend}: names no hosts: set cluster.hosts or cluster.hostfile")
    return named


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


def _named_hosts(cluster: ClusterConfig) -> Inventory | None:
    if cluster.hostfile:
        return read_hostfile(Path(cluster.hostfile))
    return inventory_of_hosts(cluster.hosts, "cluster.hosts") if cluster.hosts else None


def _inventory_of_started(cluster: ClusterConfig, environment: Mapping[str, str]) -> Inventory:
    """The scheduler's own names, else those of the config for its nodes in their order, else numbers."""
    started = required_started(environment)
    source = f"the environment of {started.scheduler}"
    if started.scheduler == "torchrun":  # its processes are the ranks
        return _numbered(started.num_nodes, source, int(environment["LOCAL_WORLD_SIZE"]))
    if started.hosts:
        return inventory_of_hosts(started.hosts, source)
    named = _named_hosts(cluster)
    if named and len(named.nodes) != started.num_nodes:
        raise ConfigError(
            f"{named.source} names {len(named.nodes)} host(s), {started.scheduler} has started {started.num_nodes}: "
            "name those alone, in the order of their ranks, or none"
        )
    return named or _numbered(started.num_nodes, source)


def _numbered(count: int, source: str, num_slots: int | None = None) -> Inventory:
    return Inventory(tuple(InventoryNode(f"node{number}", num_slots) for number in range(count)), source)
