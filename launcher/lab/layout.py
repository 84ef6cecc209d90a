"""What a lab consists of: names, addresses and paths, all of them functions of four values. Touches nothing."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from launcher.lab.lab_error import LabError

LAB_ROOT = Path("/run/llama-dist-lab")
DEFAULT_NAME = "lab"
MAX_NODES = 99  # two digits, so that `NAME-n99` fits the 15 characters of an interface name
_NAME = re.compile(r"[a-z][a-z0-9-]{0,10}")
_NUM_SUBNETS = 250
_LOGIN_BYTE = 254
_CONTROLLER_BYTE = 253


@dataclass(frozen=True)
class Node:
    """One host of a lab: a network namespace, joined to the bridge by one link."""

    name: str
    namespace: str
    address: str
    link: str
    """The link's end in the root namespace: what `cut` takes down. The other end is the node's `eth0`."""
    directory: Path

    @property
    def host_name_namespace(self) -> Path:
        """Return the file that holds the node's UTS namespace open."""
        return self.directory / "uts"


@dataclass(frozen=True)
class Lab:
    """One lab: its nodes, and where the files for its users are."""

    name: str
    subnet: int
    """Third byte of the lab's addresses, 10.77.SUBNET.0/24: no two labs share it."""
    nodes: tuple[Node, ...]
    controller: Node | None
    """With Slurm, the host of its controller: jobs run on the others."""
    directory: Path

    @property
    def has_slurm(self) -> bool:
        """Whether Slurm runs on the nodes."""
        return self.controller is not None

    @property
    def hosts(self) -> tuple[Node, ...]:
        """Return the nodes, and the controller if there is one."""
        return (*self.nodes, self.controller) if self.controller else self.nodes

    @property
    def login_address(self) -> str:
        """Return the bridge's address: that of the root namespace, which is the login machine."""
        return f"10.77.{self.subnet}.{_LOGIN_BYTE}"

    @property
    def bridge(self) -> str:
        """Return the name of the bridge."""
        return bridge_name(self.name)

    @property
    def ssh_config(self) -> Path:
        """Return the file for `ssh -F`."""
        return self.directory / "ssh_config"

    @property
    def slurm_conf(self) -> Path | None:
        """Return the file for SLURM_CONF, None without Slurm."""
        return self.directory / "slurm" / "slurm.conf" if self.has_slurm else None

    @property
    def hostfile(self) -> Path:
        """Return the DeepSpeed-style list of the nodes."""
        return self.directory / "hostfile"

    @property
    def cluster_file(self) -> Path:
        """Return the file for `llama-dist launch --cluster`: Slurm's where there is Slurm, else the one over ssh."""
        return self.directory / "cluster.yaml"

    @property
    def ssh_cluster_file(self) -> Path:
        """Return the cluster file that uses ssh, also beside Slurm."""
        return self.directory / "cluster-ssh.yaml" if self.has_slurm else self.cluster_file

    @property
    def environment(self) -> dict[str, str]:
        """Return what the lab's users need in their environment."""
        return {"SLURM_CONF": str(self.slurm_conf)} if self.has_slurm else {}

    def node(self, name: str) -> Node:
        """Return the node, or the controller, of that name. Raises LabError that lists the names."""
        for host in self.hosts:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in self.hosts)
        raise LabError(f"lab `{self.name}` has no node `{name}`, only {names}")


def lay_out(name: str, num_nodes: int, subnet: int, *, has_slurm: bool, root: Path = LAB_ROOT) -> Lab:
    """Name every part of a lab. Raises LabError for a name or a number that does not fit."""
    check_name(name)
    if not 1 <= num_nodes <= MAX_NODES:
        raise LabError(f"--nodes {num_nodes}: a lab has 1 to {MAX_NODES} nodes")
    directory = lab_directory(name, root)

    def host(host_name: str, last_byte: int, link_suffix: str) -> Node:
        address = f"10.77.{subnet}.{last_byte}"
        return Node(host_name, f"ld-{name}-{host_name}", address, f"{name}-{link_suffix}", directory / host_name)

    nodes = tuple(host(f"node{number}", number, f"n{number}") for number in range(1, num_nodes + 1))
    controller = host("control", _CONTROLLER_BYTE, "ctl") if has_slurm else None
    return Lab(name, subnet, nodes, controller, directory)


def lab_directory(name: str, root: Path = LAB_ROOT) -> Path:
    """Return where everything of a lab is, but for its namespaces and links."""
    return root / name


def check_name(name: str) -> None:
    """Raise LabError unless interfaces, namespaces and folders can be named after it."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"--name {name!r}: a lab's name is a lower-case letter, then at most 10 letters, digits or hyphens"
        )


def bridge_name(lab_name: str) -> str:
    """Return the name of a lab's bridge, at most 15 characters."""
    return f"{lab_name}-br"


def namespace_pattern(lab_name: str) -> re.Pattern[str]:
    """Match the namespaces of that lab alone."""
    return re.compile(rf"ld-{re.escape(lab_name)}-(node\d+|control)")


def link_pattern(lab_name: str) -> re.Pattern[str]:
    """Match the links and the bridge of that lab alone."""
    return re.compile(rf"{re.escape(lab_name)}-(n\d+|ctl|br)")


def free_subnet(addresses: Collection[str], taken: Collection[int]) -> int:
    """Return the first third byte of 10.77.*.0/24 that no address of the machine and no other lab uses."""
    used = {int(address.split(".")[2]) for address in addresses if address.startswith("10.77.")} | set(taken)
    for subnet in range(_NUM_SUBNETS):
        if subnet not in used:
            return subnet
    raise LabError(f"all {_NUM_SUBNETS} networks of 10.77.0.0/16 are in use: end a lab with `llama-dist lab down`")
