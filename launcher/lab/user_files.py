"""The texts that a lab gives to its users: host names, how to reach the nodes, cluster files. Writes nothing."""

from typing import Any

from launcher.lab.layout import Lab


def hosts_text(lab: Lab, login_host_name: str) -> str:
    """Return the nodes' /etc/hosts. The login machine has its own name too: programs announce themselves by it."""
    login_names = dict.fromkeys(["login", login_host_name])
    lines = ["127.0.0.1 localhost", f"{lab.login_address} {' '.join(login_names)}"]
    lines += [f"{node.address} {node.name}" for node in lab.hosts]
    return "\n".join(lines) + "\n"


def hostfile_text(lab: Lab) -> str:
    """Return a DeepSpeed-style hostfile."""
    return "".join(f"{node.name} slots=1\n" for node in lab.nodes)


def ssh_cluster(lab: Lab) -> dict[str, Any]:
    """Return the cluster file that reaches the nodes by ssh."""
    return {
        "backend": "ssh",
        "hosts": [node.name for node in lab.nodes],
        "ssh_config": str(lab.ssh_config),
        "num_processes_per_node": 1,
    }


def slurm_cluster() -> dict[str, Any]:
    """Return the cluster file that leaves the nodes to Slurm."""
    return {"backend": "slurm", "num_processes_per_node": 1}
