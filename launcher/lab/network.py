"""Builds a lab's hosts out of the kernel's parts: a bridge, and for each node a namespace, a link and a host name."""

import contextlib
import json
import re
import shutil
from pathlib import Path

from launcher.lab.layout import Lab, Node, link_pattern, namespace_pattern
from launcher.lab.programs import run_step
from launcher.lab.user_files import hosts_text

_NAMESPACES = Path("/run/netns")
_LINKS = Path("/sys/class/net")
_NAMESPACE_FILES = Path("/etc/netns")  # `ip netns exec` shows what is here in the place of /etc


def build_network(lab: Lab, login_host_name: str) -> None:
    """Make the bridge and the nodes. Raises LabError at the first step that fails."""
    step = f"bridge {lab.bridge}"
    run_step(step, ["ip", "link", "add", lab.bridge, "type", "bridge"])
    run_step(step, ["ip", "address", "add", f"{lab.login_address}/24", "dev", lab.bridge])
    run_step(step, ["ip", "link", "set", lab.bridge, "up"])
    for node in lab.hosts:
        _write_hosts(lab, node, login_host_name)
        _build_node(lab, node)


def _write_hosts(lab: Lab, node: Node, login_host_name: str) -> None:
    directory = _NAMESPACE_FILES / node.namespace
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts").write_text(hosts_text(lab, login_host_name), encoding="utf-8")


def _build_node(lab: Lab, node: Node) -> None:
    step = f"network of {node.name}"
    inside = ["ip", "-netns", node.namespace]
    run_step(step, ["ip", "netns", "add", node.namespace])
    run_step(step, [*inside, "link", "set", "lo", "up"])
    run_step(step, ["ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace])
    run_step(step, ["ip", "link", "set", node.link, "master", lab.bridge, "up"])
    run_step(step, [*inside, "address", "add", f"{node.address}/24", "dev", "eth0"])
    run_step(step, [*inside, "link", "set", "eth0", "up"])
    node.host_name_namespace.touch()
    run_step(f"host name of {node.name}", ["unshare", f"--uts={node.host_name_namespace}", "hostname", node.name])


def machine_addresses() -> list[str]:
    """Return the IPv4 addresses of the root namespace."""
    interfaces = json.loads(run_step("reading addresses", ["ip", "-json", "-4", "address", "show"]))
    return [info["local"] for interface in interfaces for info in interface.get("addr_info", []) if "local" in info]


def found_namespaces(lab_name: str) -> list[str]:
    """Return the namespaces of that lab which exist."""
    return _matching(_NAMESPACES, namespace_pattern(lab_name))


def found_host_files(lab_name: str) -> list[str]:
    """Return the namespaces of that lab which have a hosts file; it outlives a reboot, unlike all the rest."""
    return _matching(_NAMESPACE_FILES, namespace_pattern(lab_name))


def found_links(lab_name: str) -> list[str]:
    """Return the links of that lab, and its bridge, which exist in the root namespace."""
    return _matching(_LINKS, link_pattern(lab_name))


def remove_network(lab_name: str) -> None:
    """Remove what a lab of that name has, whole or half built. No process may be left in it.

    A link's other end goes with it, so the links come before the namespaces.
    """
    for link in found_links(lab_name):
        run_step(f"removing {link}", ["ip", "link", "delete", link])
    for namespace in found_namespaces(lab_name):
        run_step(f"removing {namespace}", ["ip", "netns", "delete", namespace])
    for namespace in found_host_files(lab_name):
        shutil.rmtree(_NAMESPACE_FILES / namespace)
    with contextlib.suppress(OSError):  # absent, or others have files in it
        _NAMESPACE_FILES.rmdir()


def _matching(directory: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir() if pattern.fullmatch(path.name))
    except FileNotFoundError:
        return []
