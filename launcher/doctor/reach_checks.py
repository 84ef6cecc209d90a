"""Verdicts on whether each node answers, and is a machine of its own. Pure."""

import re
from collections.abc import Mapping, Sequence

from launcher.doctor.node_facts import Hello
from launcher.doctor.probe_pool import Loss
from launcher.doctor.result import CheckResult, join_hosts, summed_up

REACHABLE = "reachable"
MACHINES = "machines"

# What OpenSSH, Slurm and Python say, and what to do about it. The first that matches counts.
_KNOWN_CAUSES = (
    (r"could not resolve|name or service not known", "mend the name in the host list, or make it known by DNS"),
    (r"host key verification failed", "log in once by `ssh HOST` and compare the key, or add it to known_hosts"),
    (r"permission denied", "log-in by key must work without a password: try `ssh -o BatchMode=yes HOST true`"),
    (r"connection refused", "no ssh server listens there: start it, or mend Port in the ssh configuration"),
    (r"no route to host|network is unreachable|timed out", "the machine is down or cut off: look, or leave it out"),
    (r"connection (closed|reset)|banner exchange", "something ends the connection: look at the log of the node's sshd"),
    (r"no module named", "install llama-dist on the node, or name its interpreter by cluster.python"),
    (r"can't open user config file", "mend cluster.ssh_config: there is no such file"),
    (r"not found|no such file", "name the node's Python interpreter by cluster.python"),
    (r"unable to (create step|allocate)|invalid (job|node)", "take the hosts of the allocation that this runs in"),
)  # fmt: skip


def check_reachable(
    hosts: Sequence[str], lost: Mapping[str, Loss], refused: Mapping[str, str], seconds: float
) -> list[CheckResult]:
    """Judge the first question; `refused` holds the nodes whose answer made no sense, and `seconds` what all took."""
    findings = {host: _lost_result(host, loss) for host, loss in lost.items()}
    for host, fault in refused.items():
        advice = "its code is another revision: bring the same one to every node"
        findings[host] = CheckResult(REACHABLE, host, "failed", f"answers what is not understood: {fault}", advice)
    return summed_up(REACHABLE, hosts, findings, f"{len(hosts)} node(s) answered within {seconds:.1f} s")


def check_machines(hellos: Mapping[str, Hello]) -> list[CheckResult]:
    """Judge whether every name leads to another machine; a node counted twice would get twice its ranks."""
    names_of: dict[str, list[str]] = {}
    for host, hello in hellos.items():
        names_of.setdefault(hello.machine, []).append(host)
    findings = {}
    for names in names_of.values():
        for host in names[1:]:
            text = f"is the same machine as {names[0]}: both names lead to {hellos[host].host}"
            findings[host] = CheckResult(MACHINES, host, "failed", text, f"remove {host} from the hosts, or mend it")
    told = [host if hello.host == host else f"{host} (calls itself {hello.host})" for host, hello in hellos.items()]
    return summed_up(MACHINES, list(hellos), findings, join_hosts(told))


def _lost_result(host: str, loss: Loss) -> CheckResult:
    said = loss.said.lower()
    advice = next((advice for pattern, advice in _KNOWN_CAUSES if re.search(pattern, said)), "")
    if not advice and loss.kind == "silent":
        advice = "the machine hangs, or cluster.connect_timeout_seconds is too short for it"
    return CheckResult(REACHABLE, host, "failed", str(loss), advice.replace("HOST", host))
