"""What a launch is, checked: config, machine, plan, and the difference to the run's last config.

Writes nothing and starts nothing: `execute.py` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.facts import MachineFacts, read_machine_facts
from launcher.attempt_files import latest_config, next_attempt
from launcher.backend import Machines
from launcher.changes import Change, allow_all, check_changes, find_changes
from launcher.fleet.choice import NodeNeeds, choose_nodes
from launcher.hosts import inventory_of, with_slots
from launcher.plan import TRAINER_MODULE, Plan, make_plan, num_processes_per_node, run_directory_of
from launcher.replan import Fitted, fit_to
from launcher.sources import check_sources
from llama_dist.checkpoint.manifest import has_any_step
from llama_dist.config import (
    ClusterConfig,
    RunConfig,
    RunDirectory,
    dump_config,
    load_cluster_config,
    load_run_config,
)


@dataclass(frozen=True)
class LaunchRequest:
    """What the user asked for."""

    run_file: Path
    cluster_file: Path | None = None
    overrides: tuple[str, ...] = ()
    allow_changes: tuple[str, ...] = ()
    fresh: bool = False
    worker_module: str = TRAINER_MODULE


@dataclass(frozen=True)
class Launch:
    """One launch that could start."""

    request: LaunchRequest
    config: RunConfig
    cluster: ClusterConfig
    machine: MachineFacts
    hosts: tuple[str, ...]
    """Hosts of the inventory, spares included; this machine's name where it is alone."""

    run: RunDirectory
    caller_environment: Mapping[str, str]

    def fit(self, machines: Machines) -> Fitted:
        """The config for these machines: the user's own, or where nodes may be fewer, the closest that works."""
        if self.cluster.nodes is None:
            return Fitted(self.config, ())
        return fit_to(self.config, num_processes_per_node(self.cluster, machines.nodes) * len(machines.nodes))

    def plan_attempt(self, number: int, machines: Machines, config: RunConfig) -> Plan:
        """Plan one attempt. Raises ConfigError for a topology that cannot work."""
        return make_plan(
            config,
            self.cluster,
            machines,
            self.caller_environment,
            attempt=number,
            worker_module=self.request.worker_module,
        )

    def plan_next(self) -> Plan:
        """Plan the attempt that comes next, on the machines that are expected."""
        return self.plan_attempt(next_attempt(self.run), self.expected_machines(), self.config)

    def expected_machines(self) -> Machines:
        """The machines of a whole cluster, before any was asked: taken to be like this one."""
        chosen = choose_nodes(self.hosts, self.hosts, NodeNeeds.of(self.cluster, len(self.hosts)))
        nodes = tuple(replace(self.machine, host=host) for host in chosen)
        return Machines(nodes, master_port=self.cluster.rendezvous_port or 0)

    def find_changes(self) -> tuple[Change, ...]:
        """Compare with the config that the run was last started with. Raises ConfigError for a refused change.

        Where no checkpoint is gone on from, there is nothing that a change could contradict.
        """
        former = latest_config(self.run)
        if former is None:
            return ()
        changes = find_changes(dump_config(former), dump_config(self.config), self.request.allow_changes)
        if self._has_no_past:
            return allow_all(changes)
        check_changes(self.config.name, changes)
        return changes

    def starts_over(self, changes: Sequence[Change]) -> bool:
        """Whether an existing run begins anew: the user said so, or it has no checkpoint and another config."""
        return self.request.fresh or (self._has_no_past and any(change.verdict != "free" for change in changes))

    @property
    def _has_no_past(self) -> bool:
        """Whether the run begins at step 0. A checkpoint that is not whole is a past too: it may be damage."""
        return self.request.fresh or not has_any_step(self.run.checkpoints)


def check_launch(request: LaunchRequest, caller_environment: Mapping[str, str]) -> Launch:
    """Read and check all that needs no run directory. Raises ReportedError."""
    config = load_run_config(request.run_file, request.overrides)
    cluster = load_cluster_config(request.cluster_file, request.overrides)
    machine = read_machine_facts(caller_environment)
    inventory = inventory_of(cluster, machine.host, caller_environment)
    cluster = with_slots(cluster, inventory)
    launch = Launch(request, config, cluster, machine, inventory.hosts, run_directory_of(config), caller_environment)
    launch.plan_next()
    check_sources(config)
    return launch
