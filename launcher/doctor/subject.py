"""What is examined: the nodes, how each is reached, and what the run needs of them. Reads the run's own paths only."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.scheduler import read_started
from launcher.attempt_files import attempt_numbers
from launcher.doctor.machine_checks import MemoryNeed
from launcher.doctor.storage_checks import DiskNeed
from launcher.fleet.choice import NodeNeeds
from launcher.hosts import inventory_of, is_outside_allocation
from launcher.memory import estimate_memory
from launcher.plan import run_directory_of
from launcher.shells import local_command, srun_command, ssh_command
from llama_dist.config import ClusterConfig, ConfigError, RunConfig, RunDirectory

_CHECKPOINT_BYTES_PER_PARAMETER = 12  # fp32 master weight and two moments
_CHECKPOINT_MARGIN = 1.05  # headers, manifest, state of the data


@dataclass(frozen=True)
class Subject:
    """The nodes in the order of their ranks, and the run that is to work on them."""

    cluster: ClusterConfig
    hosts: tuple[str, ...]
    config: RunConfig | None = None
    files: tuple[Path, ...] = ()
    """The config files that the user edits."""

    num_nodes: int | None = None
    """How many nodes an attempt has: more than `hosts` where each node is examined by itself, fewer where some are
    spare; None where nobody says."""

    @property
    def run(self) -> RunDirectory | None:
        """The run's directory, there or not."""
        return None if self.config is None else run_directory_of(self.config)

    @property
    def datasets(self) -> list[str]:
        """Absolute paths of the sources that are directories."""
        sources = [] if self.config is None else self.config.data.sources
        return [str(Path(source.path).absolute()) for source in sources if not source.is_remote]

    @property
    def num_remote_sources(self) -> int:
        """Number of sources behind a URL."""
        return 0 if self.config is None else sum(source.is_remote for source in self.config.data.sources)


def hosts_of(cluster: ClusterConfig) -> tuple[str, ...]:
    """Return the nodes in the order of their ranks. Raises ConfigError where nobody names them."""
    if cluster.backend in ("local", "started"):
        return (socket.gethostname(),)
    if cluster.backend == "kubernetes":
        raise ConfigError(
            "backend kubernetes: there are no pods before the launch: run `llama-dist doctor` in one, with "
            "--set cluster.backend=started"
        )
    if is_outside_allocation(cluster, os.environ):
        raise ConfigError(
            "backend slurm: the nodes are known once Slurm has given them: run `llama-dist doctor` inside an "
            "allocation (salloc)"
        )
    return inventory_of(cluster, socket.gethostname(), os.environ).hosts


def num_nodes_of(cluster: ClusterConfig, hosts: Sequence[str]) -> int | None:
    """Return the nodes of an attempt; None where nobody says. Raises ConfigError where the hosts are too few."""
    if cluster.backend == "started":
        if read_started(os.environ) is None:
            return None
        hosts = inventory_of(cluster, socket.gethostname(), os.environ).hosts
    return NodeNeeds.of(cluster, len(hosts)).most


def probe_command(cluster: ClusterConfig, host: str) -> tuple[str, ...]:
    """Return the command that runs the probe on `host`, its pipes attached.

    On another host the working directory is the user's home: -P keeps a stray file there from being imported.
    """
    python = cluster.python or sys.executable
    if cluster.backend in ("local", "started"):
        return local_command((python, "-m", "cluster.probe"))
    remote = (python, "-P", "-m", "cluster.probe")
    if cluster.backend == "slurm":
        return srun_command([host], remote)
    return ssh_command(host, remote, cluster.ssh_config, cluster.connect_timeout_seconds)  # as mpirun does


def disk_need(subject: Subject) -> DiskNeed | None:
    """Return what the run's checkpoints take at most: those kept, and the one that is being written.

    None where nobody says how many nodes share them.
    """
    config, run = subject.config, subject.run
    if config is None or run is None:
        return None
    checkpoint = config.checkpoint
    size = config.model.num_parameters * _CHECKPOINT_BYTES_PER_PARAMETER * _CHECKPOINT_MARGIN
    if not checkpoint.shared:
        if subject.num_nodes is None:
            return None
        size /= subject.num_nodes  # each node keeps what its own ranks write
    is_own = os.path.lexists(run.checkpoints) or checkpoint.directory is None
    num_by_clock = 1 if checkpoint.interval_minutes else 0
    num_lasting = config.train.num_steps // checkpoint.keep_every_steps if checkpoint.keep_every_steps else 0
    return DiskNeed(
        path=os.path.realpath(run.checkpoints if is_own else str(checkpoint.directory)),
        is_own=is_own,
        checkpoint_bytes=round(size),
        num_checkpoints=checkpoint.keep_last + checkpoint.keep_best + num_lasting + num_by_clock + 1,
        is_shared=checkpoint.shared,
    )


def memory_need(subject: Subject, num_gpus_per_node: int) -> MemoryNeed | None:
    """Return what a rank of the fullest stage takes; None for an unknown topology, or one that the plan refuses."""
    if subject.config is None or subject.num_nodes is None:
        return None
    config, per_node = subject.config, subject.cluster.num_processes_per_node or max(1, num_gpus_per_node)
    dp_size, rest = divmod(per_node * subject.num_nodes, config.parallel.pipeline_stages)
    per_step = config.batch.micro_batch_sequences * dp_size
    if rest or not dp_size or config.batch.global_batch_sequences % per_step:
        return None
    stages = estimate_memory(config, dp_size, config.batch.global_batch_sequences // per_step)
    worst = max(stages, key=lambda stage: stage.total_bytes)
    state = worst.weights_bytes + worst.gradients_bytes + worst.optimizer_bytes
    return MemoryNeed(state, worst.total_bytes, per_node)


def decisive_files(subject: Subject) -> Sequence[Path]:
    """Return the configs that ranks read, as far as they are written."""
    run = subject.run
    if run is None:
        return ()
    attempts = attempt_numbers(run)
    files = [run.config, *([run.attempt_config(attempts[-1])] if attempts else [])]
    return [file.absolute() for file in files if file.is_file()]
