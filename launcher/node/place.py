"""Which of a run's nodes this machine is, and by which address and interface the others reach it."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.interfaces import interface_of
from llama_dist.config import ConfigError


@dataclass(frozen=True)
class Place:
    """A node as the run knows it."""

    host: str
    address: str
    interface: str


def find_place(told: str, hosts: Sequence[str], environment: Mapping[str, str], address: str = "") -> Place:
    """Find this machine among the run's hosts. Raises ConfigError where its own names are none of them.

    `address` is the one from which it reached its supervisor, where it did: that is in the network of the cluster. A
    name may mean 127.0.1.1 on its own machine, and SSH_CONNECTION may be the log-in node's, which a job inherits.
    """
    host = told or _own_name(hosts, environment)
    address = address or _address_of(host, environment)
    return Place(host, address, interface_of(address) or "")


def own_names(environment: Mapping[str, str]) -> list[str]:
    """What this machine is called, the name that a scheduler gave it first."""
    full = socket.gethostname()
    names = (environment.get("SLURMD_NODENAME", ""), full, full.partition(".")[0])
    return [name for name in names if name]


def _own_name(hosts: Sequence[str], environment: Mapping[str, str]) -> str:
    names = own_names(environment)
    for name in names:
        if name in hosts:
            return name
    raise ConfigError(f"this machine calls itself {names[0]}, which is none of the run's {len(hosts)} hosts")


def _address_of(host: str, environment: Mapping[str, str]) -> str:
    """The address that ssh came to, which is in the cluster's network; otherwise what the name means here."""
    connection = environment.get("SSH_CONNECTION", "").split()  # client's address and port, server's address and port
    if len(connection) == 4:
        return connection[2]
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""
