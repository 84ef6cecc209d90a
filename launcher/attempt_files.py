"""What an attempt leaves in `attempts/NNNN/`, and in which order. Private to the user: it may name hosts and paths."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.facts import MachineFacts
from launcher.changes import Change
from launcher.code_record import write_code
from launcher.ends import Outcome
from launcher.plan import Plan, log_directory
from launcher.records import write_json
from llama_dist.config import RunConfig, RunDirectory, dump_config, load_run_config, write_yaml
from llama_dist.config.run_life import read_life


def attempt_numbers(run: RunDirectory) -> list[int]:
    """Return the attempts there are, ascending."""
    names = (path.name for path in run.attempts.glob("[0-9]*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdigit())


def next_attempt(run: RunDirectory) -> int:
    """Return the number that the next attempt gets; an attempt that was begun keeps its number."""
    return max(attempt_numbers(run), default=0) + 1


def latest_config(run: RunDirectory) -> RunConfig | None:
    """Return the config that the run was last started with; None for a run that never was. Raises ConfigError."""
    with_config = [number for number in attempt_numbers(run) if run.attempt_config(number).is_file()]
    if with_config:
        return load_run_config(run.attempt_config(with_config[-1]))
    return load_run_config(run.config) if run.config.is_file() else None


def write_attempt(run: RunDirectory, config: RunConfig, plan: Plan, changes: Sequence[Change]) -> None:
    """Create the attempt's directory with all that is known before it starts. Raises OSError if it was begun already.

    From here on no older attempt of the run writes anything (`llama_dist/runtime/fence.py`).
    """
    directory = run.attempt(plan.attempt)
    for path in (run.attempts, run.heartbeats):
        path.mkdir(mode=0o700, exist_ok=True)
    for path in (directory, directory / "exits", log_directory(run, plan.attempt)):
        path.mkdir(mode=0o700)
    write_config(run.attempt_config(plan.attempt), config)
    write_json(directory / "plan.json", asdict(plan))
    write_json(directory / "environment.json", {each.name: each.value for each in plan.worker_environment})
    write_json(directory / "changes.json", {"changes": [asdict(change) for change in changes]})
    write_hosts(run, plan.attempt, plan.machines)
    write_code(directory, Path(__file__).parent.parent)


def write_hosts(run: RunDirectory, attempt: int, machines: Sequence[MachineFacts]) -> None:
    """Record the machines that the attempt has, in the order of their ranks."""
    write_json(run.attempt(attempt) / "hosts.json", {"hosts": [asdict(machine) for machine in machines]})


def write_exit(run: RunDirectory, attempt: int, outcome: Outcome, values: Mapping[str, Any]) -> None:
    """Record how the attempt ended."""
    steps = {"checkpoint_step_before": outcome.step_before, "checkpoint_step_after": outcome.step_after}
    write_json(run.attempt_end(attempt), {**values, **steps, "life": read_life(run)})


def write_config(path: Path, config: RunConfig) -> None:
    """Replace a config file atomically, readable by its owner alone: an address in it may hold a password."""
    beside = path.with_name(f"{path.name}.tmp")
    beside.touch(mode=0o600)
    write_yaml(beside, dump_config(config))
    beside.replace(path)
