"""A process that torchrun has started becomes a rank of the run. Rank 0 writes the attempt down first."""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psutil

from cluster.environment import as_mapping
from launcher.attempt_files import attempt_numbers, next_attempt, write_attempt
from launcher.backend import Machines
from launcher.console import Console
from launcher.errors import RunDirectoryError
from launcher.execute import create_run_directory, disk_faults_told, open_run
from launcher.launch import Launch
from launcher.lost_checkpoints import note_checkpoints
from launcher.plan import Plan, log_directory, node_environment
from launcher.preflight import check_before_launch
from launcher.records import read_json, write_json
from launcher.run_lock import hold_lock_forever
from launcher.torchrun_attempt import TOKEN_NAME
from llama_dist.config import ConfigError

_WAIT_SECONDS = 300.0
_POLL_SECONDS = 0.2
_LOOKED_AT = 3  # the newest attempts: other ranks may come late


def become_rank(launch: Launch, console: Console, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by the trainer's. Raises ReportedError before that. Never returns."""
    if launch.request.fresh:
        raise ConfigError(
            "--fresh: torchrun starts this again at each restart, and each would begin at step 0: give the run another "
            "name, or begin it afresh by a launch without torchrun"
        )
    rank, token = int(environment["RANK"]), _token(environment)
    machines = _machines(launch, environment)
    plan = _begin_attempt(launch, machines, token, console) if rank == 0 else None
    number = plan.attempt if plan else _wait_for_attempt(launch, token, rank)
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
    """What is alike in all processes of one start by torchrun. A later start may have the same: see `_claim`."""
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


def _begin_attempt(launch: Launch, machines: Machines, token: str, console: Console) -> Plan:
    """Do what a supervisor does before its first attempt. Takes no lease: nobody is left who would renew it."""
    run = launch.run
    # The rendezvous is torchrun's own, which may have the configured port open by now.
    without_port = launch.cluster.model_copy(update={"rendezvous_port": None})
    check_before_launch(replace(launch, cluster=without_port), console)
    create_run_directory(run)
    with disk_faults_told(run):
        hold_lock_forever(run, launch.config.supervision.lease_seconds, console.say)
        changes = launch.find_changes()
        open_run(launch, changes, console)
        note_checkpoints(run)
        plan = launch.plan_attempt(next_attempt(run), machines, launch.config)
        write_attempt(run, launch.config, plan, changes)
        process = psutil.Process()  # that of rank 0: it stays the same as another program
        begun = {"token": token, "host": socket.gethostname(), "pid": process.pid, "create_time": process.create_time()}
        write_json(run.attempt(plan.attempt) / TOKEN_NAME, begun)
    return plan


def _wait_for_attempt(launch: Launch, token: str, rank: int) -> int:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        for number in reversed(attempt_numbers(launch.run)[-_LOOKED_AT:]):
            directory = launch.run.attempt(number)
            if (read_json(directory / TOKEN_NAME) or {}).get("token") == token and _claim(directory, rank):
                return number
        time.sleep(_POLL_SECONDS)
    raise RunDirectoryError(
        f"{launch.run.attempts}: rank 0 began no attempt in {_WAIT_SECONDS:.0f} s: see its output; the run directory "
        "must be on a disk that all nodes share"
    )


def _claim(directory: Path, rank: int) -> bool:
    """Take the rank's place in an attempt, once: the attempt of a start before this one has been taken already."""
    try:
        descriptor = os.open(directory / f"rank_{rank:05d}.taken", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    os.close(descriptor)
    return True
