"""The texts of a lab's ssh: one sshd a node, one client that reaches them all without a question. Writes nothing."""

from launcher.lab.layout import Lab, Node

CLIENT_KEY = "client_key"
_NUM_UNAUTHENTICATED = 200  # a start on all nodes opens many connections at once, and sshd drops some at 10


def sshd_config(lab: Lab, node: Node) -> str:
    """Return a daemon's configuration: the lab's one key opens it, on the node's own address."""
    lines = [
        "Port 22",
        f"ListenAddress {node.address}",
        f"HostKey {node.directory / 'host_key'}",
        f"AuthorizedKeysFile {lab.directory / CLIENT_KEY}.pub",
        "PermitRootLogin prohibit-password",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UsePAM no",
        "UseDNS no",
        "X11Forwarding no",
        f"MaxStartups {_NUM_UNAUTHENTICATED}",
        "MaxSessions 100",
        "PidFile none",
        "AcceptEnv LANG LC_*",
        "Subsystem sftp internal-sftp",
    ]
    lines += [f"SetEnv {name}={value}" for name, value in lab.environment.items()]
    return "\n".join(lines) + "\n"


def ssh_config(lab: Lab) -> str:
    """Return the clients' configuration; the files that it names are pinned, the user's own are not read."""
    lines = []
    for node in lab.nodes:
        lines += [f"Host {node.name}", f"    HostName {node.address}", f"    HostKeyAlias {node.name}"]
    lines += [
        "Host *",
        "    User root",
        f"    IdentityFile {lab.directory / CLIENT_KEY}",
        "    IdentitiesOnly yes",
        "    IdentityAgent none",
        f"    UserKnownHostsFile {lab.directory / 'known_hosts'}",
        "    GlobalKnownHostsFile /dev/null",
        "    StrictHostKeyChecking yes",
        "    BatchMode yes",
        "    ConnectTimeout 5",
    ]
    return "\n".join(lines) + "\n"


def known_hosts(host_keys: dict[str, str]) -> str:
    """Return the known hosts, from the public key of each node by name."""
    return "".join(f"{name} {' '.join(key.split()[:2])}\n" for name, key in host_keys.items())
