"""Which node has which files of a checkpoint, and what must be copied where before all ranks can load. Pure.

Where all nodes share one disk they are one node here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llama_dist.checkpoint.manifest import FileRecord


@dataclass(frozen=True)
class Nodes:
    """Which ranks share a disk."""

    host_of_rank: tuple[str, ...]

    node_of_rank: tuple[int, ...]
    """Nodes are numbered from 0, in the order of their first ranks."""

    @property
    def leaders(self) -> tuple[int, ...]:
        """First rank of each node."""
        return tuple(self.node_of_rank.index(node) for node in range(max(self.node_of_rank) + 1))

    def ranks_of(self, node: int) -> list[int]:
        """Ranks of a node, ascending."""
        return [rank for rank, of_node in enumerate(self.node_of_rank) if of_node == node]

    def name_of(self, node: int) -> str:
        """Host of a node; with its first rank where a host has several."""
        hosts = [self.host_of_rank[leader] for leader in self.leaders]
        name = hosts[node]
        return name if hosts.count(name) == 1 else f"{name} (from rank {self.leaders[node]} on)"

    def name_of_rank(self, rank: int) -> str:
        """How a message names a rank."""
        return f"rank {rank} on host {self.host_of_rank[rank]}"


@dataclass(frozen=True)
class Copy:
    """One file that goes from a node that has it to one that needs it, by one rank of either."""

    file: int
    source_rank: int
    target_rank: int


def arrange_nodes(members: Sequence[tuple[str, int]], *, is_shared: bool) -> Nodes:
    """Arrange ranks, given in order as (host, local rank): each local rank 0 begins a node."""
    node_of_rank: list[int] = []
    node = -1
    for rank, (_, local_rank) in enumerate(members):
        if rank == 0 or (local_rank == 0 and not is_shared):
            node += 1
        node_of_rank.append(node)
    return Nodes(tuple(host for host, _ in members), tuple(node_of_rank))


def share_by_bytes(sizes: Mapping[int, int], ranks: Sequence[int]) -> dict[int, int]:
    """Give each file, by number with its bytes, to one of the ranks, so that the bytes of the ranks are nearly even."""
    load = dict.fromkeys(ranks, 0)
    shares = {}
    for file in sorted(sizes, key=lambda file: (-sizes[file], file)):
        shares[file] = min(load, key=lambda rank: (load[rank], rank))
        load[shares[file]] += sizes[file]
    return shares


def plan_copies(
    nodes: Nodes, files: Sequence[FileRecord], intact: Sequence[Collection[int]], needed: Sequence[Iterable[int]]
) -> list[Copy]:
    """What must be copied so that every node has the files that it needs; `intact` and `needed` are by node.

    Each file needed must be intact somewhere. The work is spread over ranks by bytes. Every rank takes its copies in
    the order of this list: then none waits for another in a circle.
    """
    busy_bytes = dict.fromkeys(range(len(nodes.node_of_rank)), 0)
    copies = []
    for node, wanted in enumerate(needed):
        for file in sorted(set(wanted) - set(intact[node])):
            holders = [rank for rank, of_node in enumerate(nodes.node_of_rank) if file in intact[of_node]]
            source = min(holders, key=lambda rank: (busy_bytes[rank], rank))
            target = min(nodes.ranks_of(node), key=lambda rank: (busy_bytes[rank], rank))
            copies.append(Copy(file, source, target))
            for rank in (source, target):
                busy_bytes[rank] += files[file].num_bytes
    return copies


def describe_copy(copy: Copy, nodes: Nodes, files: Sequence[FileRecord]) -> str:
    """One line for a person."""
    source, target = (nodes.name_of(nodes.node_of_rank[rank]) for rank in (copy.source_rank, copy.target_rank))
    record = files[copy.file]
    return f"copying {record.name}, {_size(record.num_bytes)}, from {source} to {target}"


def _size(num_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
