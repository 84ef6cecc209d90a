"""Builds a lab, step by step, and takes it down again if a step fails."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from launcher.lab import user_files
from launcher.lab.daemons import start_daemons
from launcher.lab.down import down
from launcher.lab.lab_error import LabError
from launcher.lab.layout import DEFAULT_NAME, Lab, Node, check_name, lab_directory
from launcher.lab.network import build_network, found_links
from launcher.lab.node_daemons import node_daemons
from launcher.lab.programs import check_machine
from launcher.lab.slurm_hosts import start_controller, wait_for_slurm, write_slurm_files
from launcher.lab.ssh_hosts import wait_for_ssh, write_ssh_files
from launcher.lab.state import reserve_lab
from llama_dist.config import write_yaml


def up(name: str = DEFAULT_NAME, *, num_nodes: int = 3, with_slurm: bool = False) -> Lab:
    """Build a lab; it stays when this process ends. Raises LabError with the step that failed; then nothing is left."""
    check_machine(with_slurm=with_slurm)
    check_name(name)
    _check_names_are_free(name)
    lab = reserve_lab(name, num_nodes, has_slurm=with_slurm)
    try:
        _write_files(lab)
        build_network(lab, socket.gethostname())
        bring_up(lab, lab.hosts)
    except OSError as error:
        down(name)
        raise LabError(f"lab: {error}") from error
    except BaseException:
        down(name)
        raise
    return lab


@contextmanager
def running_lab(name: str, *, num_nodes: int = 3, with_slurm: bool = False) -> Iterator[Lab]:
    """Build a lab, and take it down at the end of the block."""
    lab = up(name, num_nodes=num_nodes, with_slurm=with_slurm)
    try:
        yield lab
    finally:
        down(name)


def _check_names_are_free(name: str) -> None:
    """Refuse names that something else has: `down` would remove it."""
    if not lab_directory(name).exists() and (links := found_links(name)):
        raise LabError(
            f"network interface {links[0]} is there, and no lab `{name}`: give the lab another --name, "
            f"or remove the interface with `ip link delete {links[0]}` if you know what it was"
        )


def _write_files(lab: Lab) -> None:
    for directory in ("daemons", "logs", *(node.name for node in lab.hosts)):
        (lab.directory / directory).mkdir()
    write_ssh_files(lab)
    lab.hostfile.write_text(user_files.hostfile_text(lab), encoding="utf-8")
    write_yaml(lab.ssh_cluster_file, user_files.ssh_cluster(lab))
    if lab.has_slurm:
        write_slurm_files(lab)
        write_yaml(lab.cluster_file, user_files.slurm_cluster())


def bring_up(lab: Lab, hosts: Sequence[Node]) -> None:
    """Start what does not run on these hosts, the controller's daemons first, and wait until all of them answer."""
    if lab.controller in hosts:
        start_controller(lab)
    nodes = [host for host in hosts if host != lab.controller]
    start_daemons(lab, [daemon for node in nodes for daemon in node_daemons(lab, node)])
    wait_for_ssh(lab, nodes)
    if lab.has_slurm:
        wait_for_slurm(lab, nodes)
