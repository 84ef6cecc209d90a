import subprocess
import sys
from pathlib import Path

import pytest

from cluster.environment import FROM_CALLER, MASK, as_mapping, masked, shipper_environment, worker_environment
from cluster.facts import Gpu, MachineFacts

CPU_MACHINE = MachineFacts("node", 8, 1 << 34, ())
GPU_MACHINE = MachineFacts("node", 8, 1 << 34, (Gpu(0, "H100", 80 << 30),))
LOGS = Path("/runs/x/attempts/0001/logs")


def workers(machine=CPU_MACHINE, num_processes=2, **caller):
    return as_mapping(worker_environment(machine, num_processes, LOGS, caller))


def test_processes_share_the_cores():
    assert workers(num_processes=2)["OMP_NUM_THREADS"] == "4"
    assert workers(num_processes=16)["OMP_NUM_THREADS"] == "1"


def test_a_machine_without_gpus_runs_deepspeed_on_the_cpu():
    assert workers(CPU_MACHINE)["DS_ACCELERATOR"] == "cpu"
    assert "DS_ACCELERATOR" not in workers(GPU_MACHINE)


def test_a_machine_with_gpus_records_its_collectives_beside_the_logs():
    environment = workers(GPU_MACHINE)
    assert environment["TORCH_FR_DUMP_TEMP_FILE"].startswith(str(LOGS))
    assert int(environment["TORCH_FR_BUFFER_SIZE"]) > 0
    assert environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"


def test_a_setting_of_the_caller_wins_and_is_marked():
    variables = worker_environment(CPU_MACHINE, 2, LOGS, {"OMP_NUM_THREADS": "3"})
    (threads,) = [each for each in variables if each.name == "OMP_NUM_THREADS"]
    assert (threads.value, threads.reason) == ("3", FROM_CALLER)


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "AWS_SECRET_ACCESS_KEY", "BASH_ENV", "PYTHONSTARTUP", "IFS"])
def test_what_no_list_names_does_not_reach_a_process(name):
    assert name not in workers(**{name: "x"})
    assert name not in as_mapping(shipper_environment({name: "x"}, None))


def test_credentials_of_the_tracker_reach_the_shipper_and_no_rank():
    caller = {
        "MLFLOW_TRACKING_PASSWORD": "hunter2",
        "HTTPS_PROXY": "http://me:hunter2@proxy:3128",
        "TRACKER": "hunter2",
    }
    assert not set(caller) & set(workers(**caller))
    shipper = shipper_environment(caller, "https://u:${TRACKER}@host")
    assert {name: as_mapping(shipper)[name] for name in caller} == caller
    assert "TRACKER" not in as_mapping(shipper_environment(caller, "https://host"))
    shown = as_mapping(masked(shipper))
    assert shown["MLFLOW_TRACKING_PASSWORD"] == shown["TRACKER"] == MASK
    assert shown["HTTPS_PROXY"] == f"http://{MASK}@proxy:3128"
    assert "hunter2" not in str(masked(shipper))


@pytest.mark.parametrize("name", ["DS_API_KEY", "TORCH_AUTH_TOKEN", "NCCL_SECRET", "DS_KEY"])
def test_a_secrets_name_hides_its_value(name):
    assert as_mapping(masked(worker_environment(CPU_MACHINE, 1, LOGS, {name: "hunter2"})))[name] == MASK


def test_the_allocator_settings_save_nearly_all_page_faults_of_large_tensors():
    """glibc reads them at the start of a process: 20 arrays of 64 MB, each written once."""
    program = (
        "import numpy, resource\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "for _ in range(20): numpy.empty(64 << 20, dtype=numpy.uint8).fill(1)\n"
        "print(faults() - before)"
    )

    def page_faults(environment):
        command = [sys.executable, "-c", program]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout)

    settings = {name: value for name, value in workers().items() if name.startswith("MALLOC_")}
    # Transparent huge pages lower both counts alike; without them it is 327,680 pages against 16,384.
    assert page_faults(settings) < page_faults({}) / 5
