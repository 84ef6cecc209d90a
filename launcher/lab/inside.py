"""Runs programs on a node: in its network, with its host name and its /etc/hosts. Starts no daemons."""

import os
import subprocess
from collections.abc import Sequence
from typing import NoReturn

from launcher.lab.layout import Lab, Node
from launcher.lab.programs import program


def command_inside(node: Node, command: Sequence[str]) -> list[str]:
    """Return the argument list that becomes `command` on the node; the process keeps its id."""
    into_network = [program("ip"), "netns", "exec", node.namespace]
    return [*into_network, program("nsenter"), f"--uts={node.host_name_namespace}", "--", *command]


def run_inside(
    lab: Lab, node_name: str, command: Sequence[str], *, timeout_seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command on a node to its end; answers its code and output. Raises LabError where there is no such node."""
    return subprocess.run(
        command_inside(lab.node(node_name), command),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        env={**os.environ, **lab.environment},
    )


def become_inside(lab: Lab, node_name: str, command: Sequence[str]) -> NoReturn:
    """Become the command: terminal, signals and exit code are its own. Raises LabError where it cannot be started."""
    argv = command_inside(lab.node(node_name), command)
    os.execve(argv[0], argv, {**os.environ, **lab.environment})  # noqa: S606 - an argument list, no shell
