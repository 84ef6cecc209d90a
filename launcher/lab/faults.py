"""What goes wrong with hosts, done on purpose: one dies, one is cut off, one's link is slow; and the way back."""

from launcher.lab.layout import Lab
from launcher.lab.node_processes import end_processes_in
from launcher.lab.programs import run_step
from launcher.lab.rate_limit import lift_rate_limit, limit_rate
from launcher.lab.up import bring_up

DEFAULT_MBIT = 10.0


def kill(lab: Lab, node_name: str) -> int:
    """Let a host die; answers how many processes it had. The link goes first: a dead host says no goodbye."""
    cut(lab, node_name)
    return end_processes_in(lab.node(node_name).namespace)


def cut(lab: Lab, node_name: str) -> None:
    """Pull a node's cable: packets in both directions are lost in silence, its processes live on."""
    node = lab.node(node_name)
    run_step(f"cutting {node.name}", ["ip", "link", "set", node.link, "down"])


def slow(lab: Lab, node_name: str, mbit: float = DEFAULT_MBIT) -> None:
    """Limit a node's link, in each direction, to so many megabits a second. Raises LabError where the kernel cannot."""
    limit_rate(lab.node(node_name), mbit)


def mend(lab: Lab, node_name: str) -> None:
    """Undo `cut`, `slow` and `kill`: link up, no limit, daemons running; returns when the node answers."""
    node = lab.node(node_name)
    lift_rate_limit(node)
    run_step(f"mending {node.name}", ["ip", "link", "set", node.link, "up"])
    bring_up(lab, [node])
