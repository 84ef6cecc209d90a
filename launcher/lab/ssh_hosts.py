"""Makes the keys and files of a lab's ssh, and waits until the nodes' daemons answer. The texts are `ssh_files`'s."""

import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from launcher.lab import ssh_files
from launcher.lab.daemons import Daemon, check_alive, log_tail
from launcher.lab.lab_error import LabError
from launcher.lab.layout import Lab, Node
from launcher.lab.programs import program, run_step

_READY_SECONDS = 60.0  # on a busy machine; an idle one takes a tenth of a second
_ANSWER_SECONDS = 2.0
_POLL_SECONDS = 0.05
_NUM_LOGINS = 8


def write_ssh_files(lab: Lab) -> None:
    """Make one host key a node and one key for the clients, and write the configurations."""
    _make_key(lab.directory / ssh_files.CLIENT_KEY, f"llama-dist-lab-{lab.name}")
    host_keys = {}
    for node in lab.nodes:
        key = node.directory / "host_key"
        _make_key(key, node.name)
        host_keys[node.name] = key.with_suffix(".pub").read_text(encoding="utf-8")
        (node.directory / "sshd_config").write_text(ssh_files.sshd_config(lab, node), encoding="utf-8")
    (lab.directory / "known_hosts").write_text(ssh_files.known_hosts(host_keys), encoding="utf-8")
    lab.ssh_config.write_text(ssh_files.ssh_config(lab), encoding="utf-8")


def _make_key(path: Path, comment: str) -> None:
    run_step("ssh keys", ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def ssh_daemon(node: Node) -> Daemon:
    """Return the sshd of a node."""
    config = str(node.directory / "sshd_config")
    return Daemon("sshd", node, (program("sshd"), "-D", "-e", "-f", config))


def wait_for_ssh(lab: Lab, nodes: Sequence[Node]) -> None:
    """Return once a login works on each node. Raises LabError with the log of a daemon that does not let one in."""
    deadline = time.monotonic() + _READY_SECONDS
    for node in nodes:
        daemon = ssh_daemon(node)
        while not _answers(node.address):
            check_alive(lab, daemon)
            if time.monotonic() > deadline:
                raise LabError(f"lab: {daemon.label} does not answer; its log says:\n{log_tail(lab, daemon)}")
            time.sleep(_POLL_SECONDS)
    with ThreadPoolExecutor(_NUM_LOGINS) as pool:
        list(pool.map(partial(_log_in, lab), nodes))


def _log_in(lab: Lab, node: Node) -> None:
    """Try the key. The file transfer, which ends at once, stands for a command: no shell with its start files runs."""
    try:
        run_step(f"ssh to {node.name}", ["ssh", "-F", str(lab.ssh_config), "-s", node.name, "sftp"])
    except LabError as error:
        raise LabError(f"{error}\nthe log of its sshd says:\n{log_tail(lab, ssh_daemon(node))}") from None


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=_ANSWER_SECONDS) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
