"""What a process knows of itself that a scheduler has started, and the reading of the variables that say so. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from data_pipeline.config import ConfigError

SchedulerName = Literal["torchrun", "slurm", "mpi", "kubernetes"]


@dataclass(frozen=True)
class Started:
    """One process of a job that a scheduler has started on all its nodes."""

    scheduler: SchedulerName
    node_index: int
    """Place of this process's node, from 0."""

    num_nodes: int
    hosts: tuple[str, ...]
    """The nodes in their order; empty where the scheduler does not name them."""

    is_rank: bool
    """Whether this is one worker among those of its node, not the one process that may start them."""


@dataclass(frozen=True)
class SchedulerVariables:
    """The variables of one scheduler. Every fault names the variables that it was seen in."""

    environment: Mapping[str, str]
    scheduler: str
    """Its name, for a person."""

    def require(self, *names: str) -> None:
        """Raise ConfigError where some are set and others are not: which are meant, nobody can tell."""
        missing = [name for name in names if not self.environment.get(name)]
        if missing:
            present = [name for name in names if name not in missing]
            raise ConfigError(
                f"the environment is half that of {self.scheduler}: {_listed(present)} set, {_listed(missing)} not: "
                f"set them all, or unset the first"
            )

    def number(self, name: str, at_least: int = 0) -> int:
        """Return a variable that holds a count or a place. Raises ConfigError."""
        text = self.environment.get(name, "")
        if not (text.isascii() and text.isdigit() and len(text) <= 9) or int(text) < at_least:
            raise ConfigError(
                f"{name} of {self.scheduler} is {text[:80]!a}, where a whole number from {at_least} is needed"
            )
        return int(text)

    def place(self, name: str, count_name: str, count: int) -> int:
        """Return a number below `count`, which `count_name` gave. Raises ConfigError."""
        place = self.number(name)
        if place >= count:
            raise self.contradiction(f"{name}={place} is not below the {count} of {count_name}")
        return place

    def contradiction(self, reason: str) -> ConfigError:
        """Return the error for variables that cannot all be true."""
        return ConfigError(
            f"the environment of {self.scheduler} contradicts itself: {reason}: unset what was left from another job"
        )


def is_any_set(environment: Mapping[str, str], names: tuple[str, ...]) -> bool:
    """Whether one of the variables has a value."""
    return any(environment.get(name) for name in names)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
