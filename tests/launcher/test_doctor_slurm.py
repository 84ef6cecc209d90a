"""The doctor inside an allocation of a real Slurm: `srun` reaches its nodes, and a node outside of it is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_in_a_box import lab_for_tests

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("ds", num_nodes=2, with_slurm=True) as lab:
        yield lab


def examined(lab, allocated: str) -> dict:
    """Allocate those nodes, and examine both from within."""
    doctor = [sys.executable, "-m", "launcher", "doctor", "--json", "--set", "cluster.backend=slurm"]
    answer = subprocess.run(
        ["salloc", "--nodelist", allocated, "--", *doctor, "--set", "cluster.hosts=[node1,node2]"],
        cwd=ROOT,
        env=os.environ | lab.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return json.loads(answer.stdout)


def test_the_nodes_of_an_allocation_are_reached_and_their_link_is_measured(lab):
    values = examined(lab, "node1,node2")
    assert values["verdict"] == "ok", values
    links = [one for one in values["results"] if one["check"] == "all-reduce"]
    assert [one["verdict"] for one in links] == ["ok"]


def test_a_node_outside_of_the_allocation_is_told_with_what_to_do(lab):
    failed = [one for one in examined(lab, "node1")["results"] if one["verdict"] == "failed"]
    assert [(one["check"], one["host"]) for one in failed] == [("reachable", "node2")]
    assert "allocation" in failed[0]["advice"]
