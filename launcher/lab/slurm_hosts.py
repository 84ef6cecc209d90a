"""Makes the files of a lab's Slurm, names its daemons, and waits until the nodes can be used."""

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

import psutil

from launcher.lab import slurm_files
from launcher.lab.daemons import Daemon, check_alive, log_tail, start_daemons
from launcher.lab.lab_error import LabError
from launcher.lab.layout import Lab, Node
from launcher.lab.programs import program, run_step
from launcher.lab.slurm_files import controller_of, munge_socket, slurm_directory

_KEY_BYTES = 128
_READY_SECONDS = 90.0  # on a busy machine; an idle one takes two seconds
_POLL_SECONDS = 0.1
_CONTROLLER_PORT = 6817
_STATES_OF_ABSENCE = ("down", "unknown", "future", "powered")


def write_slurm_files(lab: Lab) -> None:
    """Make the key of munge, the directories and the configuration."""
    directory = slurm_directory(lab)
    for path in (directory, directory / "state", directory / "spool"):
        path.mkdir(mode=0o700)
    for node in lab.nodes:
        (directory / "spool" / node.name).mkdir(mode=0o700)
    key = directory / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(_KEY_BYTES))
    memory_mib = psutil.virtual_memory().total >> 20
    text = slurm_files.slurm_conf(lab, os.cpu_count() or 1, memory_mib)
    (directory / "slurm.conf").write_text(text, encoding="utf-8")
    (directory / "cgroup.conf").write_text(slurm_files.cgroup_conf(), encoding="utf-8")


def munge_daemon(lab: Lab) -> Daemon:
    """Return the one munged. Forced: it objects to a directory that only root may enter."""
    directory = slurm_directory(lab)
    options = [
        f"--socket={munge_socket(lab)}",
        f"--key-file={directory / 'munge.key'}",
        f"--pid-file={directory / 'munged.pid'}",
        f"--log-file={lab.directory / 'logs' / 'munged.log'}",
        f"--seed-file={directory / 'munge.seed'}",
        "--num-threads=4",
    ]
    return Daemon("munged", controller_of(lab), (program("munged"), "--foreground", "--force", *options))


def controller_daemon(lab: Lab) -> Daemon:
    """Return slurmctld."""
    return Daemon("slurmctld", controller_of(lab), (program("slurmctld"), "-D", "-f", str(lab.slurm_conf)))


def slurm_daemon(lab: Lab, node: Node) -> Daemon:
    """Return the slurmd of a node. `-b`: it says that its host has booted, so that a dead node's jobs are given up."""
    return Daemon("slurmd", node, (program("slurmd"), "-D", "-b", "-N", node.name, "-f", str(lab.slurm_conf)))


def start_controller(lab: Lab) -> None:
    """Start munged, then slurmctld, and return once it listens: a node that knocks earlier comes back much later."""
    start_daemons(lab, [munge_daemon(lab)])
    _wait(lab, munge_daemon(lab), munge_socket(lab).exists)
    start_daemons(lab, [controller_daemon(lab)])
    _wait(lab, controller_daemon(lab), partial(_listens, controller_of(lab).address))


def _wait(lab: Lab, daemon: Daemon, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not is_ready():
        check_alive(lab, daemon)
        if time.monotonic() > deadline:
            raise LabError(f"lab: {daemon.label} does not answer; its log says:\n{log_tail(lab, daemon)}")
        time.sleep(_POLL_SECONDS)


def _listens(address: str) -> bool:
    try:
        socket.create_connection((address, _CONTROLLER_PORT), timeout=1.0).close()
    except OSError:
        return False
    return True


def wait_for_slurm(lab: Lab, nodes: Sequence[Node]) -> None:
    """Return once Slurm sees each of these nodes up. Raises LabError with the log of one that it does not."""
    for node in nodes:
        _wait(lab, slurm_daemon(lab, node), partial(_is_seen_up, lab, node.name))


def _is_seen_up(lab: Lab, node_name: str) -> bool:
    return is_up(slurm_states(lab).get(node_name, ""))


def slurm_states(lab: Lab) -> dict[str, str]:
    """Return what the controller thinks of each node: `idle`, `down*` and the like, as sinfo(1) names them."""
    command = ["sinfo", "--noheader", "--Node", "--partition=batch", "--format=%N %T"]
    lines = run_step("asking Slurm for its nodes", command, environment=lab.environment).splitlines()
    return {words[0]: words[1] for line in lines if len(words := line.split()) == 2}


def is_up(state: str) -> bool:
    """Whether the node answers and is not given up; sinfo marks one that does not answer by a star."""
    return bool(state) and not state.endswith("*") and not state.startswith(_STATES_OF_ABSENCE)
