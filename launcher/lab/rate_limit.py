"""Makes a node's link slow, by the kernel's token bucket (`tc tbf`), and fast again."""

import json

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
    for command in _both_ends(node, "replace"):
        try:
            run_step(f"slowing {node.name}", [*command, *bucket])
        except LabError as error:
            raise LabError(
                f"{error}\nIf the qdisc is unknown, this kernel lacks sch_tbf (CONFIG_NET_SCH_TBF): no link can be slow"
            ) from None


def lift_rate_limit(node: Node) -> None:
    """Let the link be as fast as it can."""
    if rate_limit_mbit(node) is not None:
        for command in _both_ends(node, "delete"):
            run_step(f"mending {node.name}", command)


def rate_limit_mbit(node: Node) -> float | None:
    """Return the limit in megabits a second, None where there is none."""
    printed = run_step(f"reading the limit of {node.name}", ["tc", "-json", "qdisc", "show", "dev", node.link])
    for discipline in json.loads(printed or "[]"):
        if discipline.get("kind") == "tbf":
            return int(discipline["options"]["rate"]) * 8 / 1e6  # tc prints bytes a second
    return None


def _both_ends(node: Node, verb: str) -> list[list[str]]:
    """Return the start of a command for what goes to the node, and for what comes from it."""
    return [
        ["tc", "qdisc", verb, "dev", node.link, "root"],
        ["tc", "-netns", node.namespace, "qdisc", verb, "dev", "eth0", "root"],
    ]
