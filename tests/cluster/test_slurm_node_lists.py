import os
import shutil
import subprocess
import time

import pytest

from cluster.slurm_nodes import MAX_NODES, expand_node_list, expand_tasks_per_node
from data_pipeline.config import ConfigError

GOOD = {
    "node1": ["node1"],
    "node1,node2": ["node1", "node2"],
    "node[1-3,5]": ["node1", "node2", "node3", "node5"],
    "x[9-11]": ["x9", "x10", "x11"],
    "y[09-11]": ["y09", "y10", "y11"],
    "y[099-101]": ["y099", "y100", "y101"],
    "a[1-2]b[3-4]": ["a1b3", "a1b4", "a2b3", "a2b4"],
    "n[1-2][3-4]": ["n13", "n14", "n23", "n24"],
    "r[1,03]": ["r1", "r03"],
    "b2,a1": ["b2", "a1"],
}
# Slurm 23 and later put names like these into their lists; scontrol of 22.05 reads them not yet.
GOOD_WITH_SUFFIX = {
    "node[1-3,5],gpu[01-04]-ib": ["node1", "node2", "node3", "node5", "gpu01-ib", "gpu02-ib", "gpu03-ib", "gpu04-ib"],
    "gpu[1-2].rack[1-2].example": [f"gpu{gpu}.rack{rack}.example" for gpu in (1, 2) for rack in (1, 2)],
}


@pytest.mark.parametrize(("text", "hosts"), (GOOD | GOOD_WITH_SUFFIX).items())
def test_a_node_list_is_expanded_in_its_order(text, hosts):
    assert list(expand_node_list(text, "SLURM_JOB_NODELIST")) == hosts


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="Slurm is not installed")
def test_slurm_itself_expands_as_we_do(tmp_path):
    (tmp_path / "slurm.conf").write_text("ClusterName=t\nSlurmctldHost=localhost\nNodeName=n1\n")
    for text, hosts in GOOD.items():
        told = subprocess.run(
            ["scontrol", "show", "hostnames", text],
            env=os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert told.stdout.split() == hosts


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ",",
            "a,",
            ",a",
            "a,,b",
            "n[]",
            "n[1,]",
            "n[,1]",
            "n[3-1]",
            "n[1-]",
            "n[-1]",
            "n[1-2-3]",
            "n[a]",
            "n[1:3]",
        ),
        *(
            "n[a]",
            "n[1:3]",
            "n[1-3",
            "n1]",
            "n[[1]]",
            "n[1]]",
            "n]1[",
            "n[1-9:2]",
            "n[1 - 2]",
            "n[ 1]",
            "n[+1]",
            "n[１]",
            "n[1.5]",
        ),
        *("(null)", "n1 n2", "n1\n", "$(touch canary)", "-oProxyCommand=x", "-n[1-2]", "n[1-2];x", "[1-3]", "n[1-2]-"),
        *("n1,n1", "n[1,1]", "n[1-2],N2"),
    ],
    ids=ascii,
)
def test_what_is_no_node_list_is_refused_by_the_name_of_its_variable(text):
    with pytest.raises(ConfigError, match="SLURM_JOB_NODELIST"):
        expand_node_list(text, "SLURM_JOB_NODELIST")


@pytest.mark.parametrize(
    "text",
    [
        "n[1-999999999999999999]",
        "n[1-65537]",
        "n[1-300][1-300]",
        "n[1-65536][1-65536][1-65536][1-65536]",
        ",".join(["n[1-65536]"] * 1000),
        "n" + "[1-2]" * 1000,
        "n[" + "9" * 5000 + "]",
    ],
    ids=lambda text: text[:20],
)
def test_a_list_that_would_fill_the_memory_is_refused_at_once(text):
    started = time.process_time()
    with pytest.raises(ConfigError) as raised:
        expand_node_list(text, "SLURM_JOB_NODELIST")
    assert time.process_time() - started < 1
    assert len(str(raised.value)) < 400


def test_two_thousand_nodes_take_milliseconds():
    started = time.process_time()
    hosts = expand_node_list("rack[01-64]-node[0001-0032]", "SLURM_JOB_NODELIST")
    assert time.process_time() - started < 0.5  # some 20 ms; the rest is for a machine that is shared
    assert len(set(hosts)) == 2048 < MAX_NODES


def test_tasks_per_node_are_expanded():
    assert expand_tasks_per_node("2(x3),1", "X") == (2, 2, 2, 1)
    assert expand_tasks_per_node("8", "X") == (8,)


@pytest.mark.parametrize("text", ["", "2(x)", "2(x3", "x", "2(x99999999)", "2(3)", "-1", "1,,1", "9" * 4999])
def test_what_are_no_tasks_per_node_are_refused(text):
    with pytest.raises(ConfigError, match="SLURM_STEP_TASKS_PER_NODE"):
        expand_tasks_per_node(text, "SLURM_STEP_TASKS_PER_NODE")
