import os
import shutil
import subprocess
import sys
import time

import pytest

from cluster.inventory import InventoryNode
from cluster.scheduler import read_started
from cluster.slurm_environment import read_slurm_allocation
from cluster.started import Started
from data_pipeline.config import ConfigError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
# As Slurm 22.05 sets them: first for a batch script, then for a process of `srun` in it.
BATCH = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}
STEP = BATCH | {
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_NODE_RANK": "0",
    "OMPI_MCA_orte_num_nodes": "3",
}
HYDRA = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
POD = {
    "JOB_COMPLETION_INDEX": "2",
    "LLAMA_DIST_NUM_NODES": "3",
    "LLAMA_DIST_JOB_NAME": "big-run",
    "LLAMA_DIST_SERVICE": "big-run",
}
POD_HOSTS = ("big-run-0.big-run", "big-run-1.big-run", "big-run-2.big-run")


@pytest.mark.parametrize(
    ("environment", "started"),
    [
        (TORCHRUN, Started("torchrun", 1, 2, (), is_rank=True)),
        (STEP, Started("slurm", 1, 2, ("n1", "n2"), is_rank=False)),
        (
            STEP | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
            Started("slurm", 1, 2, ("n1", "n2"), is_rank=True),
        ),
        (OPEN_MPI, Started("mpi", 2, 3, (), is_rank=False)),
        (OPEN_MPI | {"MASTER_ADDR": "[::1]"}, Started("mpi", 2, 3, (), is_rank=False)),
        (HYDRA, Started("mpi", 1, 2, (), is_rank=True)),
        (POD, Started("kubernetes", 2, 3, POD_HOSTS, is_rank=False)),
    ],
)
def test_each_scheduler_says_what_its_process_is(environment, started):
    assert read_started({"PATH": "/bin", "HOME": "/root"} | environment) == started


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PATH": "/bin"},
        BATCH,  # a batch script is started once, although SLURM_PROCID is 0
        {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},  # of a batch script, for its own use
        {"PMI_RANK": "0", "PMI_SIZE": "2"},  # of Slurm's PMI: the step says more
        STEP | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},  # the shell that salloc opens
        {"RANK": "", "WORLD_SIZE": ""},
    ],
)
def test_a_process_that_no_scheduler_started_is_none(environment):
    assert read_started(environment) is None


def test_the_innermost_scheduler_speaks():
    assert read_started(STEP | OPEN_MPI | TORCHRUN | POD).scheduler == "torchrun"
    assert read_started(STEP | OPEN_MPI | POD).scheduler == "mpi"
    assert read_started(STEP | POD | {"PMI_RANK": "1", "PMI_SIZE": "2"}).scheduler == "slurm"


@pytest.mark.parametrize(
    ("environment", "name"),
    [(TORCHRUN, name) for name in TORCHRUN if name != "MASTER_PORT"]
    + [(STEP, name) for name in ("SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NODEID")]
    + [(OPEN_MPI, name) for name in list(OPEN_MPI)[:4]]
    + [(HYDRA, "PMI_RANK"), (HYDRA, "PMI_SIZE"), (HYDRA, "MPI_LOCALRANKID")]
    + [(POD, name) for name in POD],
)
def test_half_set_variables_are_told_by_name(environment, name):
    for left in ({key: value for key, value in environment.items() if key != name}, environment | {name: ""}):
        with pytest.raises(ConfigError, match=f"half.*{name}.* not"):
            read_started(left)


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (TORCHRUN | {"RANK": "8"}, ("RANK", "WORLD_SIZE")),
        (TORCHRUN | {"RANK": "4"}, ("RANK", "GROUP_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")),
        (TORCHRUN | {"LOCAL_RANK": "4"}, ("LOCAL_RANK", "LOCAL_WORLD_SIZE")),
        (TORCHRUN | {"WORLD_SIZE": "7"}, ("WORLD_SIZE", "LOCAL_WORLD_SIZE")),
        (TORCHRUN | {"GROUP_RANK": "2"}, ("GROUP_RANK", "WORLD_SIZE")),
        (STEP | {"SLURM_STEP_NUM_NODES": "3"}, ("SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST")),
        (STEP | {"SLURM_NODEID": "2"}, ("SLURM_NODEID", "SLURM_STEP_NODELIST")),
        (STEP | {"SLURM_PROCID": "2"}, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "1"}, ("SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_TASKS")),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "3"}, ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")),
        (OPEN_MPI | {"OMPI_MCA_orte_num_nodes": "2"}, ("OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_num_nodes")),
        (HYDRA | {"MPI_LOCALRANKID": "2"}, ("PMI_RANK", "MPI_LOCALRANKID")),
        (POD | {"JOB_COMPLETION_INDEX": "3"}, ("JOB_COMPLETION_INDEX", "LLAMA_DIST_NUM_NODES")),
        (POD | {"LLAMA_DIST_NUM_NODES": "999999999"}, ("LLAMA_DIST_NUM_NODES",)),
    ],
)
def test_contradictions_are_told_by_name(environment, names):
    with pytest.raises(ConfigError, match="contradicts itself") as raised:
        read_started(environment)
    assert all(name in str(raised.value) for name in names)


@pytest.mark.parametrize("value", ["-1", "1.0", "0x1", "one", " 1", "1\n", "１", "9" * 5000, "$(touch canary)", "1;x"])
@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (TORCHRUN, "RANK"),
        (STEP, "SLURM_NODEID"),
        (OPEN_MPI, "OMPI_COMM_WORLD_RANK"),
        (POD, "JOB_COMPLETION_INDEX"),
    ],
)
def test_a_number_that_is_none_is_told_by_name(environment, name, value):
    with pytest.raises(ConfigError, match=name) as raised:
        read_started(environment | {name: value})
    assert str(raised.value).isprintable() and len(str(raised.value)) < 300


@pytest.mark.parametrize("value", ["-oProxyCommand=touch canary", "$(touch canary)", "a;b", "a b", "root@a", "a\nb"])
@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (TORCHRUN, "MASTER_ADDR"),
        (STEP, "SLURM_STEP_NODELIST"),
        (OPEN_MPI, "MASTER_ADDR"),
        (POD, "LLAMA_DIST_JOB_NAME"),
        (POD, "LLAMA_DIST_SERVICE"),
    ],
)
def test_a_hostile_host_is_refused_wherever_it_comes_from(environment, name, value):
    with pytest.raises(ConfigError):
        read_started(environment | {name: value})


def test_the_nodes_of_an_allocation_are_read_in_a_batch_script_and_in_a_step():
    for environment in (BATCH, STEP):
        inventory = read_slurm_allocation(environment)
        assert inventory.nodes == (InventoryNode("n1", None), InventoryNode("n2", None))
        assert inventory.source == "Slurm job 17"
    assert read_slurm_allocation(BATCH | {"SLURM_GPUS_ON_NODE": "8"}).nodes[1] == InventoryNode("n2", 8)
    assert read_slurm_allocation({"PATH": "/bin"}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_JOB_NODELIST": ""},
        {"SLURM_JOB_NODELIST": "n[1-"},
        {"SLURM_JOB_NUM_NODES": "3"},
        {"SLURM_GPUS_ON_NODE": "eight"},
        {"SLURM_JOB_ID": "1;x"},
    ],
)
def test_an_allocation_that_contradicts_itself_is_refused_by_name(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        read_slurm_allocation(BATCH | change)


def test_two_thousand_nodes_take_milliseconds():
    nodes = {"SLURM_STEP_NODELIST": "n[0001-2048]", "SLURM_STEP_NUM_NODES": "2048", "SLURM_STEP_NUM_TASKS": "2048"}
    started = time.process_time()
    assert read_started(STEP | nodes | {"SLURM_STEP_TASKS_PER_NODE": "1(x2048)"}).num_nodes == 2048
    assert read_started(POD | {"LLAMA_DIST_NUM_NODES": "2048"}).hosts[2047] == "big-run-2047.big-run"
    assert time.process_time() - started < 0.5  # some 40 ms; the rest is for a machine that is shared


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed")
def test_the_variables_of_a_real_mpirun_are_read():
    program = "import os; from cluster.scheduler import read_started; print(read_started(os.environ))"
    told = subprocess.run(
        ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    expected = Started("mpi", 0, 1, (), is_rank=True)
    assert told.stdout.split("\n")[:2] == [str(expected)] * 2


def test_the_variables_of_a_real_torchrun_are_read(tmp_path):
    program = tmp_path / "worker.py"
    program.write_text("import os; from cluster.scheduler import read_started; print(read_started(os.environ))")
    told = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    lines = told.stdout.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("Started(scheduler='torchrun', node_index=0, num_nodes=1, hosts=(), ") for line in lines)
