"""The seam between supervision and whatever starts the processes of an attempt. Starts nothing itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.agent_log import WorkerFailures


@dataclass(frozen=True)
class AttemptSpec:
    """All that a backend needs. The environment is the real one: never shown, never written down."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log_directory: Path


class RunningAttempt(Protocol):
    """The processes of one attempt."""

    def poll(self) -> int | None:
        """Return the agent's exit status once all its ranks have ended, None before."""
        ...

    def ask_to_stop(self) -> int:
        """Ask each rank to save and end (SIGTERM); answers how many were asked."""
        ...

    def ask_to_save(self) -> int:
        """Ask each rank to save and go on (SIGUSR1); answers how many were asked."""
        ...

    def end_now(self) -> None:
        """End what is left, without asking; returns when it is gone."""
        ...

    def failures(self) -> WorkerFailures:
        """Return how the ranks ended, as far as the agent knows. Only after `poll` gave a status."""
        ...


class Backend(Protocol):
    """Starts attempts on some kind of machines."""

    def check(self) -> None:
        """Raise ReportedError for what would make every start fail, before anything is written."""
        ...

    def start(self, spec: AttemptSpec) -> RunningAttempt:
        """Start one attempt; returns as soon as its agent runs."""
        ...
