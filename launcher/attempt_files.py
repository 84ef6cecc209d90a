"""What an attempt leaves in `attempts/NNNN/`, and in which order. Private to the user: it may name hosts and paths."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from launcher.changes import Change
from launcher.plan import Plan, log_directory
from launcher.policy import Outcome
from launcher.records import write_json
from llama_dist.config import RunConfig, RunDirectory, dump_config, load_run_config, write_yaml
from llama_dist.config.run_life import read_life

_PACKAGES = (
    "llama-dist",
    "torch",
    "deepspeed",
    "numpy",
    "pyarrow",
    "safetensors",
    "sentencepiece",
    "mlflow",
    "pydantic",
)
_GIT_TIMEOUT_SECONDS = 10.0


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
    """Create the attempt's directory with all that is known before it starts."""
    directory = run.attempt(plan.attempt)
    for path in (run.attempts, directory, directory / "exits", log_directory(run, plan.attempt), run.heartbeats):
        path.mkdir(mode=0o700, exist_ok=True)
    write_config(run.attempt_config(plan.attempt), config)
    write_json(directory / "plan.json", asdict(plan))
    write_json(directory / "environment.json", {each.name: each.value for each in plan.worker_environment})
    write_json(directory / "changes.json", {"changes": [asdict(change) for change in changes]})
    write_json(directory / "code.json", describe_code(Path(__file__).parent.parent))


def write_exit(run: RunDirectory, attempt: int, outcome: Outcome, values: Mapping[str, Any]) -> None:
    """Record how the attempt ended."""
    steps = {"checkpoint_step_before": outcome.step_before, "checkpoint_step_after": outcome.step_after}
    write_json(run.attempt(attempt) / "exit.json", {**values, **steps, "life": read_life(run)})


def write_config(path: Path, config: RunConfig) -> None:
    """Replace a config file atomically, readable by its owner alone: an address in it may hold a password."""
    beside = path.with_name(f"{path.name}.tmp")
    beside.touch(mode=0o600)
    write_yaml(beside, dump_config(config))
    beside.replace(path)


def describe_code(source: Path) -> dict[str, Any]:
    """Return what the attempt ran: the git revision where `source` is a work tree, and the versions."""
    revision = _git(source, "rev-parse", "HEAD")
    changes = _git(source, "status", "--porcelain", "--untracked-files=no") if revision else None
    return {
        "git_revision": revision,
        "git_dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _git(source: Path, *arguments: str) -> str | None:
    """Ask git about `source` itself; a work tree around an installed package says nothing about the package."""
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or a work tree that it does not trust
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
