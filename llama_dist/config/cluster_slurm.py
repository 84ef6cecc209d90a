"""What a job needs to be submitted to Slurm. Values that `sbatch` reads are checked here; nothing is submitted."""

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from data_pipeline.config import StrictModel

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.,@+-]*$"
# Free of all that the parser of `#SBATCH` lines treats in a way of its own: spaces, quotes, backslash, `#`.
_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(=[A-Za-z0-9_.,:@%+/\[\]()*&|=-]+)?")

OWN_OPTIONS = frozenset(
    {
        *("job-name", "nodes", "ntasks-per-node", "partition", "account", "qos", "time", "gpus-per-node", "signal"),
        *("requeue", "no-requeue", "open-mode", "no-kill", "output", "error", "export", "chdir", "cpus-per-task"),
        *("exclusive",),
    }
)
"""Options that the script sets by itself."""

_REFUSED_OPTIONS = {
    "array": "each task of an array would be a launch of the same run",
    "export-file": "the environment of a job is that of the launch",
    "get-user-env": "the environment of a job is that of the launch",
    "ntasks": "a node has one task, which starts its ranks",
    "test-only": "nothing would be submitted: use `llama-dist launch --dry-run`",
    "wrap": "the script is the job",
}


class SlurmConfig(StrictModel):
    """A job of `backend: slurm` that is submitted from outside of an allocation."""

    num_nodes: Annotated[int, Field(ge=1)] | None = None
    """Nodes of the job, spare ones included; by default those of `nodes` or one, and `spare_nodes`."""

    partition: Annotated[str, Field(pattern=_NAME)] | None = None
    """Partition, or several with commas; by default the site's."""

    account: Annotated[str, Field(pattern=_NAME)] | None = None
    """Account that is charged; by default the user's own."""

    qos: Annotated[str, Field(pattern=_NAME)] | None = None
    """Quality of service; by default the account's."""

    time_limit_minutes: Annotated[int, Field(ge=1)] | None = None
    """Minutes after which Slurm ends the job; by default the partition's limit."""

    signal_before_limit_seconds: Annotated[int, Field(ge=1, le=65535)] = 120
    """Seconds before the time limit at which the run is asked to save and stop, to go on in a job of its own."""

    requeue: bool = True
    """Whether Slurm may queue the job again after a preemption or the loss of a node; the run then goes on."""

    gpus_per_node: Annotated[int, Field(ge=1)] | None = None
    """GPUs (devices of a process each) of a node; by default none is asked for."""

    cpus_per_node: Annotated[int, Field(ge=1)] | None = None
    """CPU cores of a node, of which the worker processes take their share; by default the whole node is taken."""

    extra_options: list[str] = Field(default_factory=list)
    """More options of `sbatch`, each as `--name=value` or `--name`."""

    @field_validator("extra_options")
    @classmethod
    def _check_options(cls, options: list[str]) -> list[str]:
        faults = [fault for option in options if (fault := _option_fault(option))]
        if faults:
            raise ValueError("; ".join(faults))
        return options

    @model_validator(mode="after")
    def _check_signal(self) -> "SlurmConfig":
        limit = self.time_limit_minutes
        if limit is not None and self.signal_before_limit_seconds >= limit * 60:
            raise ValueError(
                f"signal_before_limit_seconds {self.signal_before_limit_seconds} is not below the {limit * 60} s of "
                f"time_limit_minutes {limit}: the run would be stopped as it starts"
            )
        return self


def _option_fault(option: str) -> str | None:
    """Say why an option cannot stand in the script. `sbatch` takes the beginning of a name for the whole."""
    match = _OPTION.fullmatch(option)
    if match is None:
        return f"{option[:80]!a} is no option of the form --name=value without spaces and quotes"
    name = match[1]
    if name in _REFUSED_OPTIONS:
        return f"--{name} is refused: {_REFUSED_OPTIONS[name]}"
    meant = sorted(own for own in OWN_OPTIONS | _REFUSED_OPTIONS.keys() if own.startswith(name))
    if meant:
        return f"--{name} is, or may be read as, --{meant[0]}, which the script sets by itself or refuses"
    return None
