"""Which nodes there are, in the order of their ranks, and who said so. Pure: asks no node whether it is there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.host_names import check_host_name, same_host
from data_pipeline.config import ConfigError


@dataclass(frozen=True)
class InventoryNode:
    """One node. `num_slots` is how many processes its source grants it; None where the source does not say."""

    host: str
    num_slots: int | None


@dataclass(frozen=True)
class Inventory:
    """The nodes in the order of their ranks. `source` says where they were read, for a person."""

    nodes: tuple[InventoryNode, ...]
    source: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the nodes."""
        return tuple(node.host for node in self.nodes)


def inventory_of_hosts(hosts: Sequence[str], source: str, num_slots: int | None = None) -> Inventory:
    """Check a list of names; every node has `num_slots`. Raises ConfigError with all its faults at once."""
    if not hosts:
        raise ConfigError(f"{source}: names no host: give at least one")
    names: list[str] = []
    faults: list[str] = []
    for place, name in enumerate(hosts, 1):
        try:
            names.append(check_host_name(name))
        except ConfigError as fault:
            faults.append(f"entry {place}: {fault}")
    counts = Counter(same_host(name) for name in names)
    faults += [f"host {name} is named {count} times: keep one" for name, count in counts.items() if count > 1]
    if faults:
        raise faults_error(source, faults)
    return Inventory(tuple(InventoryNode(name, num_slots) for name in names), source)


def faults_error(source: str, faults: Sequence[str]) -> ConfigError:
    """Return one error that lists every fault of a source of nodes."""
    return ConfigError("\n".join([f"{source}: the hosts cannot be used:", *(f"  {fault}" for fault in faults)]))
