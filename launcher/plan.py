"""What a launch would do: where each rank stands, what a step is, what it costs, and the exact command and environment.

Pure: takes facts, answers records. Starts nothing and touches no file.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.environment import Variable, masked, shipper_environment, worker_environment
from cluster.facts import MachineFacts
from launcher import tied
from launcher.backend import Machines
from launcher.memory import StageMemory, estimate_memory
from launcher.module_command import module_command
from launcher.offers import check_topology
from llama_dist.config import ClusterConfig, ConfigError, RunConfig, RunDirectory

TRAINER_MODULE = "llama_dist.train"
_MEET_SECONDS = 120  # for the slowest node to start its agent, whose import of torch comes from a cold disk


@dataclass(frozen=True)
class RankPlace:
    """Where one rank runs, and its coordinate: rank = pp_stage x dp_size + dp_rank."""

    rank: int
    host: str
    local_rank: int
    pp_stage: int
    dp_rank: int


@dataclass(frozen=True)
class Plan:
    """One attempt of a run, before it starts. The environments are masked: they may be shown."""

    run: str
    run_directory: str
    attempt: int
    backend: str
    machines: tuple[MachineFacts, ...]
    world_size: int
    dp_size: int
    pp_size: int
    ranks: tuple[RankPlace, ...]
    accumulation_micro_batches: int
    tokens_per_step: int
    tokens_total: int
    num_parameters: int
    memory_per_rank: tuple[StageMemory, ...]
    pipeline_bubble: float
    agent_commands: tuple[tuple[str, ...], ...]
    """One a node, in the order of `machines`."""

    worker_command: tuple[str, ...]
    worker_environment: tuple[Variable, ...]
    """Of the first node's ranks; elsewhere cores, GPUs and the network's interface may differ."""

    shipper_environment: tuple[Variable, ...]


def make_plan(
    config: RunConfig,
    cluster: ClusterConfig,
    machines: Machines,
    caller_environment: Mapping[str, str],
    *,
    attempt: int = 1,
    worker_module: str = TRAINER_MODULE,
) -> Plan:
    """Plan one attempt. Raises ConfigError for a topology that cannot work, with what could."""
    per_node = num_processes_per_node(cluster, machines.nodes)
    world_size = per_node * len(machines.nodes)
    check_topology(config, world_size)
    run = run_directory_of(config)
    pp_size = config.parallel.pipeline_stages
    dp_size = world_size // pp_size
    accumulation = config.batch.global_batch_sequences // (config.batch.micro_batch_sequences * dp_size)
    tokens_per_step = config.batch.global_batch_sequences * config.data.sequence_length_tokens
    worker = worker_command(cluster, run, attempt, worker_module)
    workers = node_environment(machines, machines.nodes[0], per_node, log_directory(run, attempt), caller_environment)
    shippers = shipper_environment(caller_environment, config.metrics.tracking_uri)
    return Plan(
        run=config.name,
        run_directory=str(run.path),
        attempt=attempt,
        backend=cluster.backend,
        machines=machines.nodes,
        world_size=world_size,
        dp_size=dp_size,
        pp_size=pp_size,
        ranks=place_ranks([one.host for one in machines.nodes], per_node, pp_size),
        accumulation_micro_batches=accumulation,
        tokens_per_step=tokens_per_step,
        tokens_total=tokens_per_step * config.train.num_steps,
        num_parameters=config.model.num_parameters,
        memory_per_rank=estimate_memory(config, dp_size, accumulation),
        pipeline_bubble=pipeline_bubble(pp_size, accumulation),
        agent_commands=agent_commands(run, attempt, cluster, machines, per_node, worker),
        worker_command=worker,
        worker_environment=masked(workers),
        shipper_environment=masked(shippers) if config.metrics.mlflow else (),
    )


def run_directory_of(config: RunConfig) -> RunDirectory:
    """Return the run's directory as an absolute path: the ranks may not share the launcher's working directory."""
    return RunDirectory(Path(config.runs_directory).absolute() / config.name)


def log_directory(run: RunDirectory, attempt: int) -> Path:
    """Return where the agent's and the ranks' output of one attempt goes."""
    return run.attempt(attempt) / "logs"


def num_processes_per_node(cluster: ClusterConfig, machines: Sequence[MachineFacts]) -> int:
    """Return the processes of each node: as configured, or one per GPU of the node with fewest, or one.

    Raises ConfigError with every node that has fewer GPUs than processes.
    """
    count = cluster.num_processes_per_node or max(1, min(len(machine.gpus) for machine in machines))
    faults = [
        f"num_processes_per_node {count}, but {machine.host} shows {len(machine.gpus)} GPU(s), and NCCL refuses "
        f"two ranks on one: use at most {len(machine.gpus)}, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        for machine in machines
        if machine.gpus and count > len(machine.gpus)
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    return count


def node_environment(
    machines: Machines, machine: MachineFacts, per_node: int, logs: Path, caller: Mapping[str, str]
) -> tuple[Variable, ...]:
    """Return the environment of the ranks of one node: on a node alone they meet on the loopback interface."""
    interface = "lo" if len(machines.nodes) == 1 else machine.interface
    return worker_environment(machine, per_node, logs, caller, interface)


def place_ranks(hosts: Sequence[str], num_processes_per_node: int, pp_size: int) -> tuple[RankPlace, ...]:
    """Deal the ranks over the hosts in order, stages as the slow axis."""
    dp_size = len(hosts) * num_processes_per_node // pp_size
    return tuple(
        RankPlace(
            rank=rank,
            host=hosts[rank // num_processes_per_node],
            local_rank=rank % num_processes_per_node,
            pp_stage=rank // dp_size,
            dp_rank=rank % dp_size,
        )
        for rank in range(len(hosts) * num_processes_per_node)
    )


def pipeline_bubble(pp_size: int, num_micro_batches: int) -> float:
    """Share of a step in which a stage waits, under 1F1B: (p - 1) / (m + p - 1) (arXiv 1811.06965, sec. 2.3)."""
    return (pp_size - 1) / (num_micro_batches + pp_size - 1)


def worker_command(cluster: ClusterConfig, run: RunDirectory, attempt: int, module: str) -> tuple[str, ...]:
    """Return the command of one rank."""
    program = module_command(python_of(cluster), module)
    return (*program, "--run-directory", str(run.path), "--attempt", str(attempt))


def agent_commands(
    run: RunDirectory, attempt: int, cluster: ClusterConfig, machines: Machines, per_node: int, worker: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Return each node's torchrun agent, which starts `tied.py` for each rank, which becomes `worker`."""
    logs = log_directory(run, attempt)
    num_nodes = len(machines.nodes)
    common = (
        *("--nnodes", str(num_nodes), "--nproc-per-node", str(per_node), "--max-restarts", "0"),
        *("--log-dir", str(logs / "torchrun")),
    )
    return tuple(
        (
            *(*module_command(python_of(cluster), "torch.distributed.run"), *common),
            *(_meet_alone(cluster) if num_nodes == 1 else _meet(machines, number)),
            *("--no-python", *tied_command(logs, worker)),
        )
        for number in range(num_nodes)
    )


def _meet_alone(cluster: ClusterConfig) -> tuple[str, ...]:
    """Port 0 lets the agent take a free one itself, so that none can be lost between choosing and listening.

    `is_host=1` makes a taken port an error at once, where the agent would else wait for a host that never comes.
    """
    return (
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{cluster.rendezvous_port or 0}"),
        *("--rdzv-conf", "is_host=1", "--local-addr", "127.0.0.1"),
    )


def _meet(machines: Machines, number: int) -> tuple[str, ...]:
    """Every node is told its number, so that ranks stand where the plan says: a dynamic rendezvous would deal them."""
    master, own = machines.nodes[0], machines.nodes[number]
    return (
        *("--node-rank", str(number), "--master-addr", master.address or master.host),
        *("--master-port", str(machines.master_port), "--rdzv-conf", f"timeout={_MEET_SECONDS}"),
        *("--local-addr", own.address or own.host),
    )


def python_of(cluster: ClusterConfig) -> str:
    """Return the interpreter on the nodes."""
    return cluster.python or sys.executable


def tied_command(logs: Path | None, command: Sequence[str]) -> tuple[str, ...]:
    """Return `command` started through `tied.py`: it ends with its parent, and a rank's output goes to `logs`."""
    options = () if logs is None else ("--log-directory", str(logs))
    return (sys.executable, "-P", "-S", str(tied.__file__), *options, "--", *command)
