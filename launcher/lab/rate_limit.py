"""Makes a node's link slow, by the kernel's token bucket (`tc tbf`), and fast again."""

import json
from dataclasses import dataclass

from launcher.lab.lab_error import LabError
from launcher.lab.layout import Node
from launcher.lab.programs import run_step

MIN_MBIT = 0.1
MAX_MBIT = 10_000.0
# A bucket has to hold what one tick of the kernel's clock lets through; a large one lets short bursts pass whole.
_MIN_BURST_BYTES = 32 << 10
_SECONDS_IN_BUCKET = 0.004
_QUEUE_MILLISECONDS = 100  # what waits longer is dropped, as a switch does


def limit_rate(node: Node, mbit: float) -> None:
    """Limit both directions. Raises LabError for a rate that makes no sense, or where the kernel has no `tbf`."""
    if not MIN_MBIT <= mbit <= MAX_MBIT:
        raise LabError(f"--mbit {mbit:g}: a link may have {MIN_MBIT:g} to {MAX_MBIT:g} megabits a second")
    bits = round(mbit * 1e6)
    burst = max(_MIN_BURST_BYTES, round(bits / 8 * _SECONDS_IN_BUCKET))
    bucket = ["tbf", "rate", f"{bits}bit", "burst", str(burst), "latency", f"{_QUEUE_MILLISECONDS}ms"]
    try:
        for end in _ends(node):
            run_step(f"slowing {node.name}", end.command("replace", *bucket))
    except LabError as error:
        lift_rate_limit(node)
        raise LabError(
            f"{error}\nIf the qdisc is unknown, this kernel lacks sch_tbf (CONFIG_NET_SCH_TBF): no link can be slow"
        ) from None


def lift_rate_limit(node: Node) -> None:
    """Let the link be as fast as it can."""
    for end in _ends(node):
        if _limit_mbit(end) is not None:
            run_step(f"mending {node.name}", end.command("delete"))


def rate_limit_mbit(node: Node) -> float | None:
    """Return the limit in megabits a second, None where there is none."""
    return _limit_mbit(_ends(node)[0])


@dataclass(frozen=True)
class _End:
    """One end of a node's link: what is sent there can be limited."""

    device: str
    place: tuple[str, ...]
    """Options of tc that say in which namespace it is."""

    def command(self, verb: str, *words: str) -> list[str]:
        return ["tc", *self.place, "qdisc", verb, "dev", self.device, "root", *words]


def _ends(node: Node) -> tuple[_End, _End]:
    """Return the end from which packets go to the node, and the node's own."""
    return _End(node.link, ()), _End("eth0", ("-netns", node.namespace))


def _limit_mbit(end: _End) -> float | None:
    command = ["tc", *end.place, "-json", "qdisc", "show", "dev", end.device]
    for discipline in json.loads(run_step(f"reading the limit of {end.device}", command) or "[]"):
        if discipline.get("kind") == "tbf":
            return int(discipline["options"]["rate"]) * 8 / 1e6  # tc prints bytes a second
    return None
