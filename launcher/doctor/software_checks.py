"""Verdicts on whether all nodes run the same code, packages and config. Pure."""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

from cluster.software import SoftwareFacts
from launcher.doctor.result import CheckResult, Verdict, join_hosts, summed_up

CODE = "code"
PACKAGES = "packages"
CONFIG = "config"

_SHOWN_DIGITS = 12
# Ranks of two versions of these may compute different numbers, or not understand each other at all.
_DECISIVE = ("python", "torch", "deepspeed")
K = TypeVar("K", bound=Hashable)


def majority(values: Mapping[str, K]) -> K:
    """Return the most frequent value; of equally frequent ones that of the earliest host."""
    return Counter(values.values()).most_common(1)[0][0]


def check_code(here: SoftwareFacts, nodes: Mapping[str, SoftwareFacts]) -> list[CheckResult]:
    """Compare each node's own sources with those of this process, which decides what the nodes are to do."""
    findings = {}
    for host, facts in nodes.items():
        if facts.code_hash != here.code_hash:
            text = f"{facts.code_directory} holds {_code_name(facts)}, this launcher runs {_code_name(here)}"
            findings[host] = CheckResult(CODE, host, "failed", text, "bring the same revision to every node")
    return summed_up(CODE, list(nodes), findings, f"{_code_name(here)} on every node")


def check_packages(nodes: Mapping[str, SoftwareFacts]) -> list[CheckResult]:
    """Compare the versions of each node with those that most nodes have. Python's patch level may differ."""
    versions = {host: {"python": facts.python, **facts.packages} for host, facts in nodes.items()}
    names = {name for one in versions.values() for name in one}
    usual = {name: majority({host: one.get(name) for host, one in versions.items()}) for name in sorted(names)}
    findings = {}
    for host, found in versions.items():
        other = [name for name in usual if found.get(name) != usual[name]]
        missing = [name for name in _DECISIVE if found.get(name) is None]
        if missing:
            text = f"{', '.join(missing)} is not installed for {nodes[host].executable}"
            findings[host] = CheckResult(PACKAGES, host, "failed", text, "install the project with its dependencies")
        elif other:
            decisive = any(name in _DECISIVE and not _same_minor(name, found[name], usual[name]) for name in other)
            text = "; ".join(f"{name} {found.get(name)}, elsewhere {usual[name]}" for name in other)
            advice = "install the same versions on every node"
            findings[host] = CheckResult(PACKAGES, host, "failed" if decisive else "warning", text, advice)
    told = ", ".join(f"{name} {usual[name]}" for name in _DECISIVE if name in usual)
    return summed_up(PACKAGES, list(nodes), findings, f"{told} on every node")


def check_config(
    files: Mapping[str, str | None], decisive: Collection[str], nodes: Mapping[str, Mapping[str, str | None]]
) -> list[CheckResult]:
    """Compare the config files that lie on nodes, by path, with those read here; both give the SHA-256.

    `decisive` are those of the run directory, which the ranks read. Of all others the launch hands its own copy out:
    a differing one on a node is not read, but shows a place that was forgotten.
    """
    if not files:
        return [CheckResult(CONFIG, None, "skipped", "no config file to compare")]
    findings = {}
    for host, seen in nodes.items():
        other = [path for path, value in files.items() if value and seen.get(path) not in (None, value)]
        if other:
            text = f"has another {', '.join(other)} than this host, whose copy counts"
            verdict: Verdict = "failed" if set(other) & set(decisive) else "warning"
            findings[host] = CheckResult(CONFIG, host, verdict, text, "bring the node's files up to date")
    absent = [host for host, seen in nodes.items() if all(seen.get(path) is None for path in files)]
    fine = f"{', '.join(Path(path).name for path in files)}: one text on every node that has it"
    return summed_up(CONFIG, list(nodes), findings, f"{fine}; none on {join_hosts(absent)}" if absent else fine)


def _same_minor(name: str, found: str | None, usual: str | None) -> bool:
    """Python 3.11.7 and 3.11.9 understand each other."""
    return name == "python" and (found or "").split(".")[:2] == (usual or "").split(".")[:2]


def _code_name(facts: SoftwareFacts) -> str:
    changed = " with changes" if facts.git_dirty else ""
    revision = f"revision {facts.git_revision[:_SHOWN_DIGITS]}{changed}, " if facts.git_revision else ""
    return f"{revision}sources {facts.code_hash[:_SHOWN_DIGITS]}"
