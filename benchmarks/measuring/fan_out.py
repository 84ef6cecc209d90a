"""Hosts that are none: a program named `ssh` that answers as a node agent does, after a second."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from cluster.facts import read_machine_facts
from launcher.fleet.placed_backend import PlacedBackend
from launcher.fleet.ssh import SshPlacement
from launcher.node.installation import describe_installation
from launcher.node.messages import facts_to_json
from llama_dist.config import ClusterConfig, RunDirectory

# Python without site-packages: what an ssh of this machine would cost, while the far side's work is only waited for.
_SSH = """#!{python} -ISE
import sys, time
time.sleep({seconds})
host = sys.argv[sys.argv.index("--") + 1]
sys.stdin.readline()
print({answer!r}.replace("@host", host), flush=True)
sys.stdin.read()
"""
_ANSWER_SECONDS = 1.0


def seconds_to_reach(num_hosts: int) -> float:
    """Seconds until a backend has heard of every host what it is."""
    hosts = [f"host{number}" for number in range(num_hosts)]
    with tempfile.TemporaryDirectory() as folder:
        _write_ssh(Path(folder))
        former = os.environ["PATH"]
        os.environ["PATH"] = f"{folder}{os.pathsep}{former}"
        try:
            return _reach(hosts, Path(folder))
        finally:
            os.environ["PATH"] = former


def _reach(hosts: list[str], folder: Path) -> float:
    cluster = ClusterConfig(backend="ssh", hosts=hosts)
    began = time.perf_counter()
    backend = PlacedBackend(SshPlacement(cluster, hosts, sys.executable), cluster, RunDirectory(folder / "run"))
    backend.check()
    seconds = time.perf_counter() - began
    backend.close()
    return seconds


def _write_ssh(folder: Path) -> None:
    facts = facts_to_json(read_machine_facts(os.environ)) | {"host": "@host"}
    answer = json.dumps({"say": "hello", "host": "@host", "facts": facts, "code": describe_installation()})
    program = folder / "ssh"
    program.write_text(_SSH.format(python=sys.executable, seconds=_ANSWER_SECONDS, answer=answer))
    program.chmod(0o755)
