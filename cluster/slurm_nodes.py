"""Slurm's notation for many nodes: `node[1-3,5],gpu[01-04]-ib` and the like, expanded. Pure.

Brackets may stand anywhere in a name and more than once; the last one runs fastest, as in `scontrol show hostnames`.
"""

import itertools
import math
import re
from collections.abc import Iterator

from cluster.inventory import inventory_of_hosts
from data_pipeline.config import ConfigError

_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_TASKS = re.compile(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?")
MAX_NODES = 65_536
"""As many as Slurm itself expands at most; a longer list is a fault, and must not fill the memory."""


def expand_node_list(text: str, source: str) -> tuple[str, ...]:
    """Return the hosts of a node list, in its order, each a checked name. Raises ConfigError; `source` names the list.

    Not only errors of notation: an empty list, a host named twice and more than MAX_NODES hosts are refused too.
    """
    hosts: list[str] = []
    for term in _split_terms(text, source):
        parts: list[tuple[str, ...]] = []
        for choices in _parts(term, source):  # counted as they come: the product must not fill the memory
            parts.append(choices)
            if len(hosts) + math.prod(map(len, parts)) > MAX_NODES:
                raise _fault(source, text, f"names more than {MAX_NODES} nodes")
        hosts += ["".join(choice) for choice in itertools.product(*parts)]
    return inventory_of_hosts(hosts, source).hosts


def expand_tasks_per_node(text: str, source: str) -> tuple[int, ...]:
    """Return the tasks of each node from a value like `2(x3),1`. Raises ConfigError."""
    counts: list[int] = []
    for term in text.split(","):
        match = _TASKS.fullmatch(term)
        repeats = int(match[2] or 1) if match else 0
        if match is None or len(counts) + repeats > MAX_NODES:
            raise _fault(source, text, f"has {term[:40]!a}, where a form like 2(x3) is needed")
        counts += [int(match[1])] * repeats
    return tuple(counts)


def _split_terms(text: str, source: str) -> Iterator[str]:
    """Cut at the commas outside of brackets."""
    start, inside = 0, False
    for place, character in enumerate(text):
        if character in "[]":
            if inside == (character == "["):
                raise _fault(source, text, "has brackets that do not match")
            inside = not inside
        elif character == "," and not inside:
            yield text[start:place]
            start = place + 1
    if inside:
        raise _fault(source, text, "has a bracket that is not closed")
    yield text[start:]


def _parts(term: str, source: str) -> Iterator[tuple[str, ...]]:
    """Yield the choices for each part of one name: one for plain text, several for brackets."""
    for part in re.split(r"(\[[^]]*\])", term):
        if part.startswith("["):
            yield _numbers(part[1:-1], source)
        elif part:
            yield (part,)


def _numbers(text: str, source: str) -> tuple[str, ...]:
    """Expand `1-3,07`; the first number of a range says how many digits all have at least."""
    numbers: list[str] = []
    for entry in text.split(","):
        match = _RANGE.fullmatch(entry)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or last < first or last - first >= MAX_NODES:
            raise _fault(source, f"[{text}]", f"has the range {entry[:40]!a}: give one like 1-3 or 01-16")
        numbers += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
        if len(numbers) > MAX_NODES:
            raise _fault(source, f"[{text}]", f"names more than {MAX_NODES} nodes")
    return tuple(numbers)


def _fault(source: str, text: str, reason: str) -> ConfigError:
    shown = ascii(text if len(text) <= 80 else f"{text[:80]}...")
    return ConfigError(f"{source}: the node list {shown} {reason}")
