"""The doctor on three real hosts over real ssh: each planted fault is found on its node, and nothing else is.

The nodes' interpreter is a script that first does what a file named after the node's host says. So one node gets other
sources, another clock, a disk of its own, without any of it being known to the probe.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cluster_in_a_box import lab_for_tests
from fake_run import run_values

from launcher.doctor.visit import DoctorRequest, examine, quick_checks, read_subject
from launcher.lab.faults import cut, mend, slow
from launcher.lab.inside import command_inside, run_inside

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
NODES = ("node1", "node2", "node3")

PYTHON = """#!/bin/sh
script="{directory}/$(hostname).sh"
if [ -f "$script" ]; then . "$script"; fi
exec {python} "$@"
"""

# Python reads the clock by this function; the monotonic clock stays as it is.
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (id == CLOCK_REALTIME) now->tv_sec += 100;
    return result;
}
"""


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("dr") as lab:
        yield lab


class Site:
    """A run and its nodes, as a user has them."""

    def __init__(self, lab, path):
        self.path, self.lab = path, lab
        python = path / "python"
        python.write_text(PYTHON.format(directory=path, python=sys.executable))
        python.chmod(0o755)
        (path / "data" / "shards").mkdir(parents=True)
        (path / "data" / "shards" / "a.arrow").write_bytes(b"12345")
        (path / "data" / "shards.arrow").write_bytes(b"index")
        (path / "data" / "manifest.json").write_text(json.dumps({"fingerprint": "f" * 32}))
        (path / "runs").mkdir()
        (path / "checkpoints").mkdir()
        values = run_values(path) | {"runs_directory": str(path / "runs")}
        values["checkpoint"] = {"directory": str(path / "checkpoints"), "shared": False}
        (path / "run.yaml").write_text(yaml.safe_dump(values))
        self.set_cluster()

    def set_cluster(self, **changes):
        values = {
            "backend": "ssh",
            "hosts": list(NODES),
            "ssh_config": str(self.lab.ssh_config),
            "num_processes_per_node": 1,
        }
        values |= {"python": str(self.path / "python"), "connect_timeout_seconds": 5}
        (self.path / "cluster.yaml").write_text(yaml.safe_dump(values | changes))

    def on(self, node, *lines):
        (self.path / f"{node}.sh").write_text("\n".join(lines) + "\n")

    @property
    def subject(self):
        return read_subject(DoctorRequest(self.path / "run.yaml", self.path / "cluster.yaml"))

    def within(self, *mounts):
        """Lines that give the node's probe a mount namespace of its own, with these mounts."""
        commands = "; ".join(mounts)
        return f'exec unshare --mount sh -ec \'{commands}; exec {sys.executable} "$@"\' sh "$@"'

    def left_behind(self):
        return list(self.path.rglob(".llama-dist-doctor-*"))


@pytest.fixture
def site(lab, tmp_path):
    return Site(lab, tmp_path)


def failures(report):
    return {(one.check, one.host): one.text for one in report.results if one.verdict == "failed"}


def test_healthy_nodes_have_no_fault_and_every_link_is_measured(site):
    report = examine(site.subject)
    assert not failures(report), failures(report)
    assert report.seconds < 60
    links = next(one.text for one in report.results if one.check == "all-reduce" and one.verdict == "ok")
    assert "3 pair(s) over gloo" in links
    assert not site.left_behind()
    assert not [name for name in NODES if "cluster.probe" in run_inside(site.lab, name, ["ps", "-eo", "args"]).stdout]


def other_sources(path):
    for package in ("cluster", "data_pipeline", "launcher", "llama_dist"):
        shutil.copytree(ROOT / package, path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (path / "launcher" / "plan.py").open("a").write("# another revision\n")
    distribution = path / "deepspeed-0.1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1\n")
    return path


def wrong_clock(path):
    (path / "clock.c").write_text(CLOCK)
    library = path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, path / "clock.c", "-ldl"], check=True)
    return library


def test_other_code_and_packages_and_a_wrong_clock_are_found_on_their_nodes(site):
    site.on("node2", f"export PYTHONPATH={other_sources(site.path / 'other')}")
    site.on("node3", f"export LD_PRELOAD={wrong_clock(site.path)}")
    found = failures(quick_checks(site.subject))
    assert set(found) == {("code", "node2"), ("packages", "node2"), ("clock", "node3")}
    assert "deepspeed 0.1" in found["packages", "node2"]
    assert "99." in found["clock", "node3"] or "100." in found["clock", "node3"]


def test_a_small_disk_a_private_run_directory_and_changed_data_are_found_on_their_nodes(site):
    path = site.path
    (path / "changed").mkdir()
    shutil.copytree(path / "data", path / "changed" / "data")
    (path / "changed" / "data" / "manifest.json").write_text(json.dumps({"fingerprint": "e" * 32}))
    site.on("node1", site.within(f"mount -t tmpfs -o size=64k tmpfs {path}/checkpoints"))
    site.on("node2", site.within(f"mount -t tmpfs tmpfs {path}/runs"))
    site.on("node3", site.within(f"mount --bind {path}/changed/data {path}/data"))
    found = failures(quick_checks(site.subject))
    assert set(found) == {("disk", "node1"), ("run directory", "node2"), ("dataset", "node3")}
    assert "fingerprint" in found["dataset", "node3"]
    assert not site.left_behind()


def test_a_read_only_run_directory_and_gpu_faults_are_found_on_their_nodes(site):
    """Every node has an `nvidia-smi` that tells of two GPUs: that of node2 of errors, that of node3 of one GPU less."""
    lines = [f"{number}, NVIDIA H100, 81559, 4, 0, {{errors}}" for number in range(2)]
    for node in NODES:
        (site.path / node).mkdir()
        program = site.path / node / "nvidia-smi"
        shown = lines[:1] if node == "node3" else lines
        text = "\\n".join(shown).format(errors=5 if node == "node2" else 0)
        program.write_text(f"#!/bin/sh\nprintf '{text}\\n'\n")
        program.chmod(0o755)
        site.on(node, f"export PATH={site.path / node}:$PATH")
    read_only = site.within(f"mount --bind -o ro {site.path}/runs {site.path}/runs")
    with (site.path / "node1.sh").open("a") as script:
        script.write(f"{read_only}\n")
    site.set_cluster(num_processes_per_node=2)
    found = failures(quick_checks(site.subject))
    assert set(found) == {("run directory", "node1"), ("gpu errors", "node2"), ("gpus", "node3")}


def test_a_taken_port_and_a_cut_between_two_nodes_are_found(site):
    node1, node2, node3 = site.lab.nodes
    listener = "import socket, sys; s = socket.create_server(('', 7777)); print(flush=True); sys.stdin.read()"
    taken = subprocess.Popen(
        command_inside(node1, [sys.executable, "-S", "-c", listener]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    taken.stdout.readline()
    route = ["ip", "-netns", node2.namespace, "route"]
    subprocess.run([*route, "add", "blackhole", node3.address], check=True)
    try:
        site.set_cluster(rendezvous_port=7777)
        report = quick_checks(site.subject)
    finally:
        subprocess.run([*route, "del", "blackhole", node3.address], check=True)
        taken.stdin.close()
        taken.wait(20)
    port, link = [one for one in report.results if one.verdict == "failed"]
    assert (port.check, port.host) == ("ports", "node1")
    assert "7777" in port.text and "in use" in port.text
    assert link.check == "ports"
    assert link.host in ("node2", "node3") and "node2 to node3" in link.text


def test_a_slow_link_is_the_outlier_with_both_its_hosts(site):
    slow(site.lab, "node3", 40)
    try:
        report = examine(site.subject)
    finally:
        mend(site.lab, "node3")
    found = [one for one in report.results if one.verdict == "failed"]
    assert {(one.check, one.host) for one in found} == {("all-reduce", "node3")}
    assert {one.text.partition(":")[0] for one in found} == {"node1 - node3", "node2 - node3"}
    assert report.seconds < 60


def test_every_unreachable_node_is_listed_at_once_by_its_reason(site):
    """Cut off, silent, without the program, refusing the port, refusing the key, of an unknown name: in one report."""
    config = site.path / "ssh_config"
    address = site.lab.nodes[0].address
    aliases = {"refused": "Port 1", "nokey": "PubkeyAuthentication no"}
    text = "".join(
        f"Host {name}\n  HostName {address}\n  HostKeyAlias node1\n  {line}\n" for name, line in aliases.items()
    )
    config.write_text(f"{text}\nHost *\n  Include {site.lab.ssh_config}\n")
    site.on("node1", "exec sleep 600")
    site.on("node3", "exec /no/such/python")
    site.set_cluster(
        hosts=[*NODES, "refused", "nokey", "unknown.invalid"], ssh_config=str(config), connect_timeout_seconds=3
    )
    cut(site.lab, "node2")
    try:
        begin = time.monotonic()
        report = examine(site.subject)
        seconds = time.monotonic() - begin
    finally:
        mend(site.lab, "node2")
    found = {host: text for (check, host), text in failures(report).items() if check == "reachable"}
    assert seconds < 60
    assert set(found) == {*NODES, "refused", "nokey", "unknown.invalid"}
    for host, words in {
        "node1": "no answer in time",
        "node2": "timed out",
        "node3": "/no/such/python",
        "refused": "refused",
        "nokey": "Permission denied",
        "unknown.invalid": "resolve hostname",
    }.items():
        assert words in found[host]
    assert report.exit_code == 78


def test_the_verb_prints_a_table_or_json_and_exits_78_for_a_fault(site):
    site.set_cluster(hosts=["node2"])
    site.on("node2", f"export PYTHONPATH={other_sources(site.path / 'other')}")
    command = [sys.executable, "-m", "launcher", "doctor", "--cluster", str(site.path / "cluster.yaml")]
    as_json = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert as_json.returncode == 78, as_json.stderr
    values = json.loads(as_json.stdout)
    assert values["verdict"] == "failed" and values["hosts"] == ["node2"]
    (site.path / "node2.sh").unlink()
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert table.returncode == 0, table.stdout
    assert "fit for a launch" in table.stdout
