"""Which daemons make a node a host."""

from launcher.lab.daemons import Daemon
from launcher.lab.layout import Lab, Node
from launcher.lab.slurm_hosts import controller_daemon, munge_daemon, slurm_daemon
from launcher.lab.ssh_hosts import ssh_daemon


def node_daemons(lab: Lab, node: Node) -> list[Daemon]:
    """Return the daemons of a node, or of the controller."""
    if node == lab.controller:
        return [munge_daemon(lab), controller_daemon(lab)]
    return [ssh_daemon(node), *([slurm_daemon(lab, node)] if lab.has_slurm else [])]
