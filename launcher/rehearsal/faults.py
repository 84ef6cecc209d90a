"""Which faults there are, in which order they are rehearsed, and whom each one hits. Pure."""

import difflib
from collections.abc import Mapping, Sequence
from enum import StrEnum

from launcher.blame import FAILURES_TO_BE_SET_ASIDE
from llama_dist.config import ConfigError


class Fault(StrEnum):
    """What is done to the run, in the order of the drill.

    Lost nodes come first: a host that failed twice is set aside by the supervisor, and could not be seen to come back.
    """

    KILL_NODE = "kill-node"
    PARTITION = "partition"
    KILL_RANK = "kill-rank"
    HANG = "hang"
    FULL_DISK = "full-disk"

    @property
    def loses_node(self) -> bool:
        """Whether a node is gone until it is mended."""
        return self in (Fault.KILL_NODE, Fault.PARTITION)


def parse_faults(text: str | None) -> tuple[Fault, ...]:
    """Read `kill-rank,hang`; None is all. Answers each once, in the order of the drill. Raises ConfigError."""
    if text is None:
        return tuple(Fault)
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [fault.value for fault in Fault]
    unknown = [name for name in names if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        nearest = f", did you mean {close[0]}?" if close else "."
        raise ConfigError(f"--faults {unknown[0]}: there is no such fault{nearest} Known: {', '.join(known)}")
    if not names:
        raise ConfigError(f"--faults {text!r}: names none; use one or more of {', '.join(known)}")
    return tuple(fault for fault in Fault if fault in names)


def choose_host(hosts: Sequence[str], num_failures: Mapping[str, int]) -> str:
    """Return the host to hit: the last of those that failed least, so that as few as possible are set aside."""
    fewest = min(num_failures.get(host, 0) for host in hosts)
    return next(host for host in reversed(hosts) if num_failures.get(host, 0) == fewest)


def may_be_set_aside(host: str, num_failures: Mapping[str, int]) -> bool:
    """Whether the supervisor may do without the host from now on: it judges by itself whose fault each end was."""
    return num_failures.get(host, 0) >= FAILURES_TO_BE_SET_ASIDE
