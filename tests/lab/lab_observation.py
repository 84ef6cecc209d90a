"""What tests of a lab look at: answers over its network, what is left of it, the command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

from launcher.lab.inside import command_inside
from launcher.lab.layout import lab_directory

ROOT = Path(__file__).parents[2]
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 22), timeout=float(sys.argv[2]))"


def reaches(node, host_name: str, timeout_seconds: float = 2.0) -> bool:
    """Whether a TCP connection from a node to another host's sshd, by name, is made in time."""
    command = command_inside(node, [sys.executable, "-S", "-c", _CONNECT, host_name, str(timeout_seconds)])
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


def ssh(lab, node_name: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", str(lab.ssh_config), node_name, *command],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def lab_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launcher", "lab", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


def left_of(name: str) -> list[str]:
    """Everything on this machine that belongs to the lab of that name: files, namespaces, links, mounts, processes."""
    directory = lab_directory(name)
    found = [str(directory)] if directory.exists() else []
    found += [str(path) for path in Path("/run/netns").glob(f"ld-{name}-*")]
    found += [str(path) for path in Path("/etc/netns").glob(f"ld-{name}-*")]
    found += [path.name for path in Path("/sys/class/net").glob(f"{name}-*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{directory}/" in line]
    found += [command for command in _command_lines() if f"{directory}/" in command or f"ld-{name}-" in command]
    return found


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return lines


def wait_until(condition, timeout_seconds: float, what: str) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.1)


def status_of(lab) -> dict[str, dict]:
    answer = lab_command("status", "--name", lab.name, "--json")
    assert answer.returncode == 0, answer.stderr
    return {node["name"]: node for node in json.loads(answer.stdout)["nodes"]}
