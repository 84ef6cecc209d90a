"""Verdicts on the network between nodes: ports that can be reached, links that are as fast as the others. Pure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from launcher.doctor.result import CheckResult, join_hosts

PORTS = "ports"
ALL_REDUCE = "all-reduce"

SLOW_SHARE = 0.5
"""A link slower than this share of the usual one is an outlier."""


@dataclass(frozen=True)
class Unreached:
    """A node that another one could not reach."""

    source: str
    target: str
    reason: str


@dataclass(frozen=True)
class PairSpeed:
    """One all-reduce between two nodes, or why there was none."""

    first: str
    second: str
    fault: str = ""
    latency_seconds: float = 0.0
    bytes_per_second: float = 0.0

    @property
    def hosts(self) -> tuple[str, str]:
        """Both nodes."""
        return self.first, self.second


def check_ports(
    hosts: Sequence[str], port: int | None, listen_faults: Mapping[str, str], unreached: Sequence[Unreached]
) -> list[CheckResult]:
    """Judge whether nodes can listen and reach each other; `port` is the rendezvous port, None for any free one."""
    results = [
        CheckResult(PORTS, host, "failed", f"port {port or 'of any number'}: {fault}", _port_advice(port))
        for host, fault in listen_faults.items()
    ]
    advice = "open the ports between the nodes, and give each a name that all the others know"
    for host, some in _by_culprit(unreached):
        shown = some[0]
        text = f"no connection with {join_hosts(_others(host, some))}; {shown.source} to {shown.target}: {shown.reason}"
        results.append(CheckResult(PORTS, host, "failed", text, advice))
    if results:
        return results
    named = f"rendezvous port {port}" if port else "a free port"
    if len(hosts) == 1:
        return [CheckResult(PORTS, None, "ok", f"{named} can be taken")]
    return [CheckResult(PORTS, None, "ok", f"{named} of each node is reached by the others")]


def usual_speed(pairs: Sequence[PairSpeed]) -> float:
    """Median over the nodes of each one's fastest link: one slow node of three does not make slowness usual."""
    fastest: dict[str, float] = {}
    for pair in pairs:
        for host in pair.hosts:
            fastest[host] = max(fastest.get(host, 0.0), pair.bytes_per_second)
    return median(fastest.values()) if fastest else 0.0


def slow_pairs(pairs: Sequence[PairSpeed]) -> list[PairSpeed]:
    """Return the links that are outliers, slowest first."""
    limit = SLOW_SHARE * usual_speed([pair for pair in pairs if not pair.fault])
    slow = [pair for pair in pairs if not pair.fault and pair.bytes_per_second < limit]
    return sorted(slow, key=lambda pair: pair.bytes_per_second)


def check_all_reduce(
    backend: str, pairs: Sequence[PairSpeed], host_faults: Mapping[str, str], num_left_out: int
) -> list[CheckResult]:
    """Judge the links by an all-reduce of each pair of nodes. A node whose links are all slow is named itself."""
    good = [pair for pair in pairs if not pair.fault]
    results = [
        CheckResult(ALL_REDUCE, host, "failed", f"torch cannot be loaded there: {fault}", "mend its installation")
        for host, fault in host_faults.items()
    ]
    for host, some in _by_culprit([Unreached(pair.first, pair.second, pair.fault) for pair in pairs if pair.fault]):
        text = f"none with {join_hosts(_others(host, some))}: {some[0].reason}"
        results.append(CheckResult(ALL_REDUCE, host, "failed", text, "look at the network of these nodes"))
    usual, slow = usual_speed(good), slow_pairs(good)
    wholly_slow = _wholly_slow_hosts(good, slow)
    for pair in slow:
        text = (
            f"{pair.first} - {pair.second}: {_rate(pair.bytes_per_second)}, usual is {_rate(usual)}; "
            f"{_micro(pair.latency_seconds)} for 4 bytes"
        )
        blamed = [host for host in pair.hosts if host in wholly_slow]
        if blamed:
            text += f"; all links of {' and '.join(blamed)} are slow"
        advice = "look at its cable, switch port, driver and MTU; until then leave the node out"
        results.append(CheckResult(ALL_REDUCE, blamed[0] if blamed else pair.first, "failed", text, advice))
    if num_left_out:
        text = f"time was up before {num_left_out} pair(s) were measured"
        results.append(CheckResult(ALL_REDUCE, None, "warning", text))
    if good:
        results.append(CheckResult(ALL_REDUCE, None, "ok", _summary(backend, good, usual)))
    return results


def _wholly_slow_hosts(pairs: Sequence[PairSpeed], slow: Collection[PairSpeed]) -> list[str]:
    """Hosts of which each link is slow, and that have more than one."""
    all_links, slow_links = Counter[str](), Counter[str]()
    for pair in pairs:
        all_links.update(pair.hosts)
    for pair in slow:
        slow_links.update(pair.hosts)
    return [host for host, count in all_links.items() if count > 1 and slow_links[host] == count]


def _summary(backend: str, pairs: Sequence[PairSpeed], usual: float) -> str:
    slowest = min(pair.bytes_per_second for pair in pairs)
    latency = median(pair.latency_seconds for pair in pairs)
    return (
        f"{len(pairs)} pair(s) over {backend}: usual {_rate(usual)}, slowest {_rate(slowest)}, "
        f"{_micro(latency)} for 4 bytes"
    )


def _by_culprit(unreached: Sequence[Unreached]) -> list[tuple[str, list[Unreached]]]:
    """Deal the failures over as few hosts as a greedy cover finds: of one dead host's many, one entry remains."""
    left, covered = list(unreached), []
    while left:
        counts = defaultdict[str, int](int)
        for one in left:
            counts[one.target] += 1
            counts[one.source] += 1
        worst = max(counts, key=lambda host: (counts[host], host))
        covered.append((worst, [one for one in left if worst in (one.source, one.target)]))
        left = [one for one in left if worst not in (one.source, one.target)]
    return covered


def _others(host: str, some: Sequence[Unreached]) -> list[str]:
    return sorted(({one.source for one in some} | {one.target for one in some}) - {host})


def _port_advice(port: int | None) -> str:
    if port is None:
        return "look at the node's limits of open files and ports"
    return "name another cluster.rendezvous_port, or leave it out: a free one is then taken at each attempt"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:,.1f} MB/s"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} us"
