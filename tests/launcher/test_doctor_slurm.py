"""The doctor inside an allocation of a real Slurm: `srun` reaches its nodes, and outside of one it says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_in_a_box import lab_for_tests

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("ds", num_nodes=2, with_slurm=True) as lab:
        yield lab


def examined(lab, *allocation: str) -> subprocess.CompletedProcess[str]:
    """Examine by the rules of Slurm, with that command in front."""
    doctor = [sys.executable, "-m", "launcher", "doctor", "--json", "--set", "cluster.backend=slurm"]
    return subprocess.run(
        [*allocation, *doctor],
        cwd=ROOT,
        env=os.environ | lab.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_nodes_of_an_allocation_are_reached_and_their_link_is_measured(lab):
    values = json.loads(examined(lab, "salloc", "--nodes", "2", "--").stdout)
    assert values["hosts"] == ["node1", "node2"]
    assert values["verdict"] == "ok", values
    links = [one for one in values["results"] if one["check"] == "all-reduce"]
    assert [one["verdict"] for one in links] == ["ok"]


def test_outside_of_an_allocation_there_are_no_nodes_to_examine_and_what_to_do_is_said(lab):
    answer = examined(lab)
    assert answer.returncode == 78
    assert "inside an allocation" in answer.stderr
