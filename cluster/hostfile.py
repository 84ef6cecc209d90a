"""A DeepSpeed-style hostfile: lines like `node1 slots=8`, and comments after `#`. Text in, inventory out."""

import codecs
import re
from pathlib import Path

from cluster.host_names import check_host_name, same_host
from cluster.inventory import Inventory, InventoryNode, faults_error
from data_pipeline.config import ConfigError

_SLOTS = re.compile(r"slots=([0-9]+)")
MAX_SLOTS = 1024
"""Far above the devices of any node: a larger number is a slip of the hand."""


def read_hostfile(path: Path) -> Inventory:
    """Read a file. Raises ConfigError with all its faults and their lines."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the hostfile cannot be read: {error.strerror}") from None
    return parse_hostfile(content, str(path))


def parse_hostfile(content: bytes, source: str) -> Inventory:
    """Read the bytes of a hostfile; `source` names it. Raises ConfigError with all faults and their lines."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{source}: the hostfile is UTF-16: save it as UTF-8")
    nodes: list[InventoryNode] = []
    faults: list[str] = []
    first_lines: dict[str, int] = {}
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            node = _parse_line(line)
        except ConfigError as fault:
            faults.append(f"line {number}: {fault}")
            continue
        if node is None:
            continue
        first = first_lines.setdefault(same_host(node.host), number)
        if first != number:
            faults.append(f"line {number}: host {node.host} is named in line {first} already: keep one")
        nodes.append(node)
    if not nodes and not faults:
        faults.append("it names no host: give lines like `node1 slots=8`")
    if faults:
        raise faults_error(source, faults)
    return Inventory(tuple(nodes), source)


def _parse_line(line: bytes) -> InventoryNode | None:
    """Read one line; None for an empty one and a comment. Raises ConfigError."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 at its byte {error.start + 1}: save the file as UTF-8") from None
    words = text.partition("#")[0].removesuffix("\r").strip(" \t\r").replace("\t", " ").split(" ")
    host, *rest = [word for word in words if word] or [""]
    if not host:
        return None
    return InventoryNode(check_host_name(host), _parse_slots(host, rest))


def _parse_slots(host: str, words: list[str]) -> int:
    match = _SLOTS.fullmatch(words[0]) if len(words) == 1 else None
    if match is None:
        found = ascii(" ".join(words)) if words else "nothing"
        raise ConfigError(f"after host {host} stands {found[:80]}, where `slots=N` is needed, as in `{host} slots=8`")
    digits = match[1].lstrip("0")
    if not digits or len(digits) > len(str(MAX_SLOTS)) or int(digits) > MAX_SLOTS:
        raise ConfigError(f"host {host} has slots={match[1][:20]}: give a number from 1 to {MAX_SLOTS}")
    return int(digits)
