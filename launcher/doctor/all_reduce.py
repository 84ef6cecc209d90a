"""Measures the link of every pair of nodes by an all-reduce, in the rounds of a tournament, while there is time.

What looks slow is measured once more, alone: a node that had other things to do is not taken for a slow link.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.doctor.budget import Budget, TimeUpError
from launcher.doctor.network_checks import PairSpeed, slow_pairs
from launcher.doctor.probe_pool import Answer, ask_all
from launcher.doctor.tournament import pair_rounds

_LOAD_SECONDS = 40.0  # of torch, from a cold network file system
_STORE_SECONDS = 5.0
_COLLECTIVE_SECONDS = 6.0  # what one side waits for the other
_ROUND_SECONDS = 20.0
_MIN_ROUND_SECONDS = 3.0
_MAX_REPEATED = 4


@dataclass(frozen=True)
class LinkSpeeds:
    """What was measured, and what was not."""

    pairs: tuple[PairSpeed, ...]

    host_faults: Mapping[str, str]
    """Nodes that could not take part, and why."""

    num_left_out: int
    """Pairs for which no time was left."""


def measure_all_pairs(
    nodes: Budget, hosts: Sequence[str], backend: str, cut: Collection[frozenset[str]] = ()
) -> LinkSpeeds:
    """Measure all pairs but those that are known to be cut. Raises TimeUpError where torch takes all the time."""
    loaded = ask_all(nodes, hosts, {"ask": "load_torch"}, _LOAD_SECONDS)
    faults = {host: answer.fault for host, answer in loaded.items() if answer.values is None}
    pairs: list[PairSpeed] = []
    num_left_out = 0
    for all_of_round in pair_rounds([host for host in hosts if host not in faults]):
        round_pairs = [pair for pair in all_of_round if frozenset(pair) not in cut]
        measured = _measure_in_time(nodes, round_pairs, backend)
        num_left_out += len(round_pairs) - len(measured)
        pairs += measured
    return LinkSpeeds(tuple(_repeat_slow(nodes, pairs, backend)), faults, num_left_out)


def _repeat_slow(nodes: Budget, pairs: list[PairSpeed], backend: str) -> list[PairSpeed]:
    """Measure the slowest pairs again, one by one, and keep what is better."""
    for slow in slow_pairs(pairs)[:_MAX_REPEATED]:
        for again in _measure_in_time(nodes, [slow.hosts], backend):
            if not again.fault and again.bytes_per_second > slow.bytes_per_second:
                pairs = [again if pair is slow else pair for pair in pairs]
    return pairs


def _measure_in_time(nodes: Budget, pairs: Sequence[tuple[str, str]], backend: str) -> list[PairSpeed]:
    """Measure some pairs; none where there is no time for it, or not enough."""
    if nodes.seconds_left < _MIN_ROUND_SECONDS:
        return []
    with contextlib.suppress(TimeUpError):
        return _measure_round(nodes, pairs, backend)
    return []


def _measure_round(nodes: Budget, pairs: Sequence[tuple[str, str]], backend: str) -> list[PairSpeed]:
    """Measure some pairs at the same time; no host is in two of them."""
    stores = nodes.ask({first: {"ask": "open_store"} for first, _ in pairs}, _STORE_SECONDS)
    ports = {host: answer.values.get("port") for host, answer in stores.items() if answer.values}
    requests: dict[str, Mapping[str, Any]] = {}
    for first, second in pairs:
        if first in ports:
            common = {"ask": "reduce", "backend": backend, "store_host": first, "store_port": ports[first]}
            common["timeout_seconds"] = _COLLECTIVE_SECONDS
            requests[first] = {**common, "rank": 0, "peer": second}
            requests[second] = {**common, "rank": 1, "peer": first}
    answers = nodes.ask(requests, _ROUND_SECONDS)
    return [
        _speed(first, second, answers[first], answers[second])
        if first in ports
        else PairSpeed(first, second, fault=f"{first}: {stores[first].fault}")
        for first, second in pairs
    ]


def _speed(first: str, second: str, one: Answer, other: Answer) -> PairSpeed:
    faults = [f"{host}: {answer.fault}" for host, answer in ((first, one), (second, other)) if answer.values is None]
    values = one.values or {}
    latency, speed = values.get("latency_seconds"), values.get("bytes_per_second")
    if faults or not isinstance(latency, float) or not isinstance(speed, float):
        return PairSpeed(first, second, fault="; ".join(faults) or f"{first}: answers no speed")
    return PairSpeed(first, second, latency_seconds=latency, bytes_per_second=speed)
