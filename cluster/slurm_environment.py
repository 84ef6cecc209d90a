"""What Slurm's variables say: the nodes of an allocation, and what a process that `srun` started is. Pure.

A batch script has SLURM_PROCID=0 and no SLURM_STEP_*: it is started once for the whole job, and is no step.
"""

from collections.abc import Mapping

from cluster.inventory import Inventory, inventory_of_hosts
from cluster.slurm_nodes import expand_node_list, expand_tasks_per_node
from cluster.started import SchedulerVariables, Started

_STEP = ("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NODEID")
# The shell that `salloc` opens on a node is a step too, of one task: slurm/slurm.h, SLURM_INTERACTIVE_STEP.
_INTERACTIVE_STEP = str(0xFFFFFFFA)


def read_slurm_allocation(environment: Mapping[str, str]) -> Inventory | None:
    """Return the nodes of the job that this process is in, None outside of one. Raises ConfigError.

    `num_slots` is SLURM_GPUS_ON_NODE, which speaks of this node and is taken for all; None where it is not set.
    """
    if not environment.get("SLURM_JOB_ID"):
        return None
    variables = SchedulerVariables(environment, "Slurm")
    variables.require("SLURM_JOB_ID", "SLURM_JOB_NODELIST")
    hosts = expand_node_list(environment["SLURM_JOB_NODELIST"], "SLURM_JOB_NODELIST")
    _check_count(variables, "SLURM_JOB_NUM_NODES", len(hosts), "SLURM_JOB_NODELIST")
    gpus = variables.number("SLURM_GPUS_ON_NODE") if environment.get("SLURM_GPUS_ON_NODE") else 0
    return inventory_of_hosts(hosts, f"Slurm job {variables.number('SLURM_JOB_ID')}", gpus or None)


def read_slurm_step(environment: Mapping[str, str]) -> Started | None:
    """Return what `srun` says of this process, None where it did not start it. Raises ConfigError."""
    if not environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_STEP_ID") == _INTERACTIVE_STEP:
        return None
    variables = SchedulerVariables(environment, "srun")
    variables.require(*_STEP)
    hosts = expand_node_list(environment["SLURM_STEP_NODELIST"], "SLURM_STEP_NODELIST")
    _check_count(variables, "SLURM_STEP_NUM_NODES", len(hosts), "SLURM_STEP_NODELIST")
    num_tasks = variables.number("SLURM_STEP_NUM_TASKS", at_least=1)
    if num_tasks < len(hosts):
        raise variables.contradiction(f"SLURM_STEP_NUM_TASKS={num_tasks} for {len(hosts)} nodes of SLURM_STEP_NODELIST")
    variables.place("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", num_tasks)
    node_index = variables.place("SLURM_NODEID", "SLURM_STEP_NODELIST", len(hosts))
    _check_tasks(variables, len(hosts), num_tasks)
    return Started("slurm", node_index, len(hosts), hosts, is_rank=num_tasks > len(hosts))


def _check_count(variables: SchedulerVariables, name: str, num_hosts: int, list_name: str) -> None:
    if variables.environment.get(name) and variables.number(name) != num_hosts:
        raise variables.contradiction(
            f"{name}={variables.environment[name]}, but {list_name} names {num_hosts} node(s)"
        )


def _check_tasks(variables: SchedulerVariables, num_hosts: int, num_tasks: int) -> None:
    text = variables.environment.get("SLURM_STEP_TASKS_PER_NODE")
    if not text:
        return
    counts = expand_tasks_per_node(text, "SLURM_STEP_TASKS_PER_NODE")
    if len(counts) != num_hosts or sum(counts) != num_tasks:
        raise variables.contradiction(
            f"SLURM_STEP_TASKS_PER_NODE={text} is not {num_tasks} task(s) on {num_hosts} node(s), which "
            "SLURM_STEP_NUM_TASKS and SLURM_STEP_NODELIST say"
        )
