"""What each node of a lab is just now, read from the kernel and the daemons' records. Keeps no state."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.lab.daemons import live_pid, record_path
from launcher.lab.layout import Lab, Node
from launcher.lab.node_daemons import node_daemons
from launcher.lab.node_processes import pids_in
from launcher.lab.rate_limit import rate_limit_mbit

NodeState = Literal["up", "slow", "cut", "killed"]
_LINK_IS_UP = 0x1  # IFF_UP of linux/if.h


@dataclass(frozen=True)
class NodeStatus:
    """One node."""

    name: str
    address: str
    namespace: str
    state: NodeState
    limit_mbit: float | None
    daemons: dict[str, int | None]
    """Process id by name, None for one that does not run."""
    num_processes: int


@dataclass(frozen=True)
class LabStatus:
    """One lab."""

    name: str
    directory: str
    nodes: tuple[NodeStatus, ...]


def read_status(lab: Lab) -> LabStatus:
    """Look at every node. Raises LabError where a tool fails."""
    return LabStatus(lab.name, str(lab.directory), tuple(_read_node(lab, node) for node in lab.hosts))


def _read_node(lab: Lab, node: Node) -> NodeStatus:
    pids = {daemon.name: live_pid(record_path(lab.directory, daemon)) for daemon in node_daemons(lab, node)}
    link_exists = Path(f"/sys/class/net/{node.link}").exists()
    limit = rate_limit_mbit(node) if link_exists else None
    num_processes = len(pids_in(node.namespace))
    return NodeStatus(
        name=node.name,
        address=node.address,
        namespace=node.namespace,
        state=_state(is_linked=link_exists and _link_is_up(node), num_processes=num_processes, limit_mbit=limit),
        limit_mbit=limit,
        daemons=pids,
        num_processes=num_processes,
    )


def _state(*, is_linked: bool, num_processes: int, limit_mbit: float | None) -> NodeState:
    if not num_processes:
        return "killed"
    if not is_linked:
        return "cut"
    return "up" if limit_mbit is None else "slow"


def _link_is_up(node: Node) -> bool:
    flags = Path(f"/sys/class/net/{node.link}/flags").read_text(encoding="ascii")
    return bool(int(flags, 16) & _LINK_IS_UP)
