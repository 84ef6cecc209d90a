"""A lab as text for a terminal, and as values for a script. Reads nothing."""

from typing import Any

from launcher.lab.layout import Lab
from launcher.lab.status import LabStatus


def lab_values(lab: Lab) -> dict[str, Any]:
    """Return what a script needs to use the lab."""
    return {
        "name": lab.name,
        "directory": str(lab.directory),
        "login_address": lab.login_address,
        "nodes": [
            {"name": node.name, "address": node.address, "namespace": node.namespace, "link": node.link}
            for node in lab.nodes
        ],
        "ssh_config": str(lab.ssh_config),
        "hostfile": str(lab.hostfile),
        "cluster_file": str(lab.cluster_file),
        "ssh_cluster_file": str(lab.ssh_cluster_file),
        "slurm_conf": str(lab.slurm_conf) if lab.slurm_conf else None,
    }


def render_lab(lab: Lab) -> str:
    """Return where things are, as lines that can be used as they stand."""
    nodes = ", ".join(f"{node.name} {node.address}" for node in lab.nodes)
    lines = [
        f"lab          {lab.name}, in {lab.directory}",
        f"nodes        {nodes}; this machine is login {lab.login_address}",
        f"ssh          ssh -F {lab.ssh_config} {lab.nodes[0].name}",
        f"hostfile     {lab.hostfile}",
        f"cluster      llama-dist launch RUN.yaml --cluster {lab.cluster_file}",
    ]
    if lab.has_slurm:
        lines += [f"over ssh     llama-dist launch RUN.yaml --cluster {lab.ssh_cluster_file}"]
        lines += [f"slurm        export SLURM_CONF={lab.slurm_conf}"]
    return "\n".join(lines)


def render_status(status: LabStatus) -> str:
    """Return one line a node."""
    lines = [f"lab {status.name}, in {status.directory}"]
    for node in status.nodes:
        daemons = ", ".join(f"{name} {'-' if pid is None else pid}" for name, pid in node.daemons.items())
        limit = "" if node.limit_mbit is None else f", {node.limit_mbit:g} Mbit/s"
        lines.append(
            f"{node.name:<7} {node.address:<12} {node.state + limit:<20} {daemons}; {node.num_processes} process(es)"
        )
    return "\n".join(lines)
