"""What a launch would hand over or run, as `--dry-run` shows it: the job's script, or what reaches the nodes."""

import os

import pytest

from launcher.dry_run import describe_start
from launcher.launch import LaunchRequest, check_launch

HERE = {"PATH": os.environ["PATH"]}


@pytest.fixture
def start_of(fake_run):
    def describe(*overrides, **environment):
        request = LaunchRequest(fake_run.run_file, None, tuple(f"cluster.{override}" for override in overrides))
        return describe_start(check_launch(request, HERE | environment))

    return describe


@pytest.mark.parametrize("gpus", ["", "3"])
def test_which_gpus_the_submitting_machine_may_use_stays_out_of_the_job(start_of, gpus):
    script = start_of("backend=slurm", CUDA_VISIBLE_DEVICES=gpus, LD_LIBRARY_PATH="/opt/cuda/lib").script
    assert "export LD_LIBRARY_PATH=/opt/cuda/lib" in script
    assert "CUDA_VISIBLE_DEVICES" not in script


@pytest.mark.parametrize("fewer", ["spare_nodes=1", "nodes={min: 1, max: 2}"])
def test_a_dry_run_names_every_node_that_the_launch_reaches(start_of, fewer):
    commands = start_of("backend=ssh", "hosts=[node1, node2, node3]", "num_processes_per_node=1", fewer).commands
    assert [command[command.index("--") + 1] for command in commands] == ["node1", "node2", "node3"]


def test_a_dry_run_shows_one_step_for_all_nodes_of_an_allocation(start_of):
    allocation = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]"}
    (command,) = start_of("backend=slurm", "spare_nodes=1", "num_processes_per_node=1", **allocation).commands
    assert any("n1,n2,n3" in word for word in command)
