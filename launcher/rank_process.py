"""A process that torchrun has started becomes a rank of the run. Rank 0 writes the attempt down first."""

import json
import os
import time
from collections.abc import Mapping
from typing import NoReturn

from cluster.environment import as_mapping
from launcher.attempt_files import attempt_numbers, write_attempt, write_config
from launcher.backend import Machines
from launcher.errors import RunDirectoryError
from launcher.execute import create_run_directory
from launcher.launch import Launch
from launcher.plan import Plan, log_directory, node_environment
from launcher.records import write_json
from launcher.run_lock import hold_lock_forever
from llama_dist.config import ConfigError

_TOKEN_NAME = "torchrun.json"  # noqa: S105 - the name of a file; it holds no secret
_WAIT_SECONDS = 300.0
_POLL_SECONDS = 0.2


def become_rank(launch: Launch, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by the trainer's. Raises ReportedError before that. Never returns."""
    rank, token = int(environment["RANK"]), _token(environment)
    machines = _machines(launch, environment)
    plan = _write_attempt(launch, machines, token) if rank == 0 else None
    number = plan.attempt if plan else _wait_for_attempt(launch, token)
    per_node = int(environment["LOCAL_WORLD_SIZE"])
    logs = log_directory(launch.run, number)
    variables = node_environment(machines, launch.machine, per_node, logs, environment)
    kept = {name: value for name, value in environment.items() if name.startswith("TORCHELASTIC_")}
    kept |= {name: environment[name] for name in _RANK_VARIABLES if name in environment}
    command = (plan or launch.plan_attempt(number, machines, launch.config)).worker_command
    os.execve(command[0], list(command), as_mapping(variables) | kept)  # noqa: S606 - an argument list from the plan


_RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)


def _token(environment: Mapping[str, str]) -> str:
    """What is alike in all processes of one start by torchrun, and in no other."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return "/".join(environment.get(name, "") for name in names)


def _machines(launch: Launch, environment: Mapping[str, str]) -> Machines:
    num_nodes = int(environment["WORLD_SIZE"]) // int(environment["LOCAL_WORLD_SIZE"])
    if launch.cluster.num_processes_per_node not in (None, int(environment["LOCAL_WORLD_SIZE"])):
        raise ConfigError(
            f"cluster.num_processes_per_node is {launch.cluster.num_processes_per_node}, torchrun started "
            f"{environment['LOCAL_WORLD_SIZE']} a node: leave the field out"
        )
    return Machines((launch.machine,) * num_nodes)


def _write_attempt(launch: Launch, machines: Machines, token: str) -> Plan:
    create_run_directory(launch.run)
    hold_lock_forever(launch.run)
    changes = launch.find_changes()
    plan = launch.plan_attempt(max(attempt_numbers(launch.run), default=0) + 1, machines, launch.config)
    if not launch.run.config.is_file():
        write_config(launch.run.config, launch.config)
    write_attempt(launch.run, launch.config, plan, changes)
    write_json(launch.run.attempt(plan.attempt) / _TOKEN_NAME, {"token": token})
    return plan


def _wait_for_attempt(launch: Launch, token: str) -> int:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        for number in reversed(attempt_numbers(launch.run)[-3:]):
            path = launch.run.attempt(number) / _TOKEN_NAME
            try:
                if json.loads(path.read_text(encoding="utf-8"))["token"] == token:
                    return number
            except (OSError, ValueError, KeyError):
                continue
        time.sleep(_POLL_SECONDS)
    raise RunDirectoryError(
        f"{launch.run.attempts}: rank 0 began no attempt in {_WAIT_SECONDS:.0f} s: see its output; the run directory "
        "must be on a disk that all nodes share"
    )
