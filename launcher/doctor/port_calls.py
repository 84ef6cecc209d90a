"""Lets every node listen and the others call it, and answers who could not. The rendezvous port is the first node's."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.doctor.network_checks import Unreached
from launcher.doctor.probe_pool import Answer, Asker, ask_all

_CALL_SECONDS = 3.0
_ASK_SECONDS = 10.0
_MAX_CALLED = 64  # of a larger cluster, each node calls its next 64: N x N calls would say no more


@dataclass(frozen=True)
class PortCalls:
    """What went wrong."""

    listen_faults: Mapping[str, str]
    """By node: why it could not listen."""

    unreached: tuple[Unreached, ...]


def call_all_ports(nodes: Asker, hosts: Sequence[str], rendezvous_port: int | None) -> PortCalls:
    """Try the ports of all nodes at once; a node without a configured port listens on any free one."""
    tokens = {host: secrets.token_hex(16) for host in hosts}
    wanted = {host: (rendezvous_port or 0) if host == hosts[0] else 0 for host in hosts}
    listen = {host: {"ask": "listen", "port": wanted[host], "token": tokens[host]} for host in hosts}
    listening = nodes.ask(listen, _ASK_SECONDS)
    targets = {
        host: [host, answer.values.get("port"), tokens[host]] for host, answer in listening.items() if answer.values
    }
    calls = {host: _call(host, hosts, targets) for host in hosts}
    called = nodes.ask(calls, _ASK_SECONDS)
    ask_all(nodes, hosts, {"ask": "close_listener"}, _ASK_SECONDS)
    return PortCalls(
        listen_faults={host: answer.fault for host, answer in listening.items() if answer.values is None},
        unreached=tuple(
            Unreached(host, target, reason)
            for host, answer in called.items()
            for target, reason in _faults(answer).items()
        ),
    )


def _call(host: str, hosts: Sequence[str], targets: Mapping[str, list[Any]]) -> dict[str, Any]:
    place = hosts.index(host)
    others = [*hosts[place + 1 :], *hosts[:place]][:_MAX_CALLED]
    called = [targets[other] for other in others if other in targets]
    return {"ask": "reach", "targets": called, "timeout_seconds": _CALL_SECONDS}


def _faults(answer: Answer) -> dict[str, str]:
    faults = (answer.values or {}).get("faults")
    return {str(host): str(reason) for host, reason in faults.items()} if isinstance(faults, dict) else {}
