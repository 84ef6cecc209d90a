"""What a launch is, checked: config, machine, plan, and the difference to the run's last config.

Writes nothing and starts nothing: `execute.py` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.facts import MachineFacts, read_machine_facts
from launcher.attempt_files import latest_config, next_attempt
from launcher.changes import Change, check_changes, find_changes
from launcher.plan import TRAINER_MODULE, Plan, make_plan, run_directory_of
from launcher.sources import check_sources
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
    run: RunDirectory
    caller_environment: Mapping[str, str]

    def plan_attempt(self, number: int) -> Plan:
        """Plan one attempt. Raises ConfigError for a topology that cannot work."""
        return make_plan(
            self.config,
            self.cluster,
            self.machine,
            self.caller_environment,
            attempt=number,
            worker_module=self.request.worker_module,
        )

    def plan_next(self) -> Plan:
        """Plan the attempt that comes next."""
        return self.plan_attempt(next_attempt(self.run))

    def find_changes(self) -> tuple[Change, ...]:
        """Compare with the config that the run was last started with. Raises ConfigError for a refused change."""
        former = latest_config(self.run)
        if former is None:
            return ()
        changes = find_changes(dump_config(former), dump_config(self.config), self.request.allow_changes)
        check_changes(self.config.name, changes)
        return changes


def check_launch(request: LaunchRequest, caller_environment: Mapping[str, str]) -> Launch:
    """Read and check all that needs no run directory. Raises ReportedError."""
    config = load_run_config(request.run_file, request.overrides)
    cluster = load_cluster_config(request.cluster_file, request.overrides)
    machine = read_machine_facts(caller_environment)
    launch = Launch(request, config, cluster, machine, run_directory_of(config), caller_environment)
    launch.plan_next()
    check_sources(config)
    return launch
