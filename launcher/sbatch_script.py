"""The script of the job that `llama-dist launch` submits from a login node of Slurm. Pure: submits nothing.

The script holds no secret: what the launch needs lies in the request file, which its owner alone can read. Every
value is checked or quoted, and none can begin a new line.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_dist.config import ClusterConfig, ConfigError
from llama_dist.config.cluster_slurm import SlurmConfig

SUBMITTED_MODULE = "launcher.submitted"
"""The program of the job: takes the path of the request file."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Submission:
    """What is submitted, apart from the config: absolute paths, on a file system that the nodes share."""

    run_name: str
    run_directory: Path
    request_file: Path
    working_directory: Path
    python: str
    environment: Mapping[str, str]
    """What Python needs to start, such as PATH and LD_LIBRARY_PATH. No secrets: Slurm keeps a copy of the script."""


def render_sbatch_script(cluster: ClusterConfig, submission: Submission) -> str:
    """Return the whole script. Raises ConfigError for a value that it cannot carry."""
    lines = ["#!/bin/sh"]
    lines += [f"#SBATCH {_directive(option)}" for option in _options(cluster, submission)]
    for name, value in sorted(submission.environment.items()):
        if not _VARIABLE_NAME.fullmatch(name):
            raise ConfigError(f"environment variable {name[:80]!a}: no shell can set a variable of that name")
        lines.append(f"export {name}={_shell_word(value, f'environment variable {name}')}")
    program = [submission.python, "-m", SUBMITTED_MODULE, str(submission.request_file)]
    # exec: the signal before the time limit goes to the process of the script alone.
    lines.append("exec " + " ".join(_shell_word(word, "the job's command") for word in program))
    return "\n".join(lines) + "\n"


def _options(cluster: ClusterConfig, submission: Submission) -> Iterator[str]:
    """Yield the options of `sbatch`, unquoted."""
    slurm = cluster.slurm
    yield f"--job-name={submission.run_name}"
    yield f"--nodes={_nodes(cluster)}"
    yield "--ntasks-per-node=1"
    yield from _asked_for(slurm)
    yield f"--signal=B:TERM@{slurm.signal_before_limit_seconds}"
    yield "--requeue" if slurm.requeue else "--no-requeue"
    yield "--open-mode=append"
    yield "--no-kill"  # the loss of one node must not end the others: the run goes on without it
    # NIL keeps the environment of the submission out of the job, and out of the files where Slurm keeps it. Slurm 22.05
    # then reads the user's login environment; `srun` inside needs an `--export=ALL` of its own to pass anything on.
    yield "--export=NIL"
    yield f"--chdir={_path(submission.working_directory)}"
    yield f"--output={_path(submission.run_directory)}/slurm-%j.out"
    yield from slurm.extra_options


def _asked_for(slurm: SlurmConfig) -> Iterator[str]:
    """Yield what the config asks of the scheduler."""
    values = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "time": slurm.time_limit_minutes,
        "gpus-per-node": slurm.gpus_per_node,
        "cpus-per-task": slurm.cpus_per_node,
    }
    yield from (f"--{name}={value}" for name, value in values.items() if value is not None)
    if slurm.cpus_per_node is None:
        yield "--exclusive"  # a task gets one core otherwise, and the node's memory per core


def _nodes(cluster: ClusterConfig) -> str:
    if cluster.slurm.num_nodes is not None:
        return str(cluster.slurm.num_nodes)
    spares = cluster.spare_nodes
    return f"{cluster.nodes.min + spares}-{cluster.nodes.max + spares}" if cluster.nodes else str(1 + spares)


def _directive(option: str) -> str:
    """Quote an option as `sbatch` reads the lines of a script: in double quotes, where a backslash escapes."""
    _refuse_unprintable(option, "an option of sbatch")
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return option if re.fullmatch(r"[A-Za-z0-9_.,:@%+/=\[\]()*&|-]+", option) else f'"{escaped}"'


def _path(path: Path) -> str:
    """Return a path for an option in which `sbatch` replaces `%j` and takes a backslash for a switch."""
    text = str(path)
    if not path.is_absolute() or "%" in text or "\\" in text:
        raise ConfigError(f"{text!a}: Slurm needs an absolute path without `%` and backslash: choose another directory")
    return text


def _shell_word(text: str, what: str) -> str:
    _refuse_unprintable(text, what)
    return shlex.quote(text)


def _refuse_unprintable(text: str, what: str) -> None:
    if not text.isprintable():
        raise ConfigError(f"{what}: {text[:80]!a} holds a line end or another unprintable character: take it out")
