"""Fake runs (tests/launcher/fake_run.py) launched over the hosts of a lab."""

import sys
from pathlib import Path

import pytest
import yaml
from cluster_in_a_box import lab_for_tests

LAUNCHER_TESTS = Path(__file__).parents[1] / "launcher"
sys.path.append(str(LAUNCHER_TESTS))

from fake_run import FakeRun, run_values, write_fake_data  # noqa: E402


@pytest.fixture(scope="module")
def lab():
    with lab_for_tests("f") as lab:
        yield lab


@pytest.fixture
def fake_run(tmp_path):
    """A fake run of 12 sequences a batch, which 1, 2, 3 and 4 replicas share evenly."""
    write_fake_data(tmp_path)
    run = FakeRun(tmp_path, num_processes=1)
    run.run_file.write_text(yaml.safe_dump(run_values(tmp_path) | {"batch": {"global_batch_sequences": 12}}))
    yield run
    for process in run.started:
        process.kill()
        process.wait(10)


@pytest.fixture
def over_ssh(lab):
    """Overrides that launch over the lab's hosts."""
    return (
        "cluster.backend=ssh",
        f"cluster.hosts=[{', '.join(node.name for node in lab.nodes)}]",
        f"cluster.ssh_config={lab.ssh_config}",
        "cluster.node_timeout_seconds=6.0",
    )
