"""Which daemons make a node a host."""

from launcher.lab.daemons import Daemon
from launcher.lab.layout import Lab, Node
from launcher.lab.slurm_hosts import slurm_daemon
from launcher.lab.ssh_hosts import ssh_daemon


def node_daemons(lab: Lab, node: Node) -> list[Daemon]:
    """Return the daemons of a node, those that others need first."""
    return [ssh_daemon(node), *([slurm_daemon(lab, node)] if lab.has_slurm else [])]
