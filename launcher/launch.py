"""What a launch is, checked: config, machine, plan, and the difference to the run's last config.

Writes nothing and starts nothing: `execute.py` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.facts import MachineFacts, read_machine_facts
from launcher.attempt_files import latest_config, next_attempt
from launcher.changes import Change, allow_all, check_changes, find_changes
from launcher.plan import TRAINER_MODULE, Plan, make_plan, run_directory_of
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
    launch = Launch(request, config, cluster, machine, run_directory_of(config), caller_environment)
    launch.plan_next()
    check_sources(config)
    return launch
