"""What shipping needs of an experiment tracker, and how a step becomes its metrics. Imports no tracker."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llama_dist.metrics.record import NAMED_LOSS_PREFIX, SpoolRecord

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

METRIC_KEYS = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "tokens_per_second",
    "tokens_seen",
    "held_out_loss",
    "memory_gib",
    "step_seconds",
    "data_stall_seconds",
)
"""Fields of StepMetrics that are shipped, under the same names; beside them each `held_out_loss/NAME`."""


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric at one step."""

    key: str
    value: float
    step: int
    timestamp_ms: int


@dataclass(frozen=True)
class RunIdentity:
    """What makes a run in the tracker ours, across restarts."""

    name: str
    directory: str
    key: str
    """A random token, written to the run directory before the run is created: a crash in between is found again."""

    run_id: str | None
    """The tracker's own id, once it is known."""


class StepSet:
    """A set of steps, one byte each: a run of a million steps must not take a gigabyte beside the trainer."""

    def __init__(self) -> None:
        self._marks = bytearray()

    def add(self, step: int) -> None:
        """Put `step` into the set."""
        if step >= len(self._marks):
            self._marks.extend(bytes(step + 1 - len(self._marks)))
        self._marks[step] = 1

    def __contains__(self, step: int) -> bool:
        return 0 <= step < len(self._marks) and self._marks[step] == 1


class Tracker(Protocol):
    """A connection to a tracker. Any method may raise anything while the tracker is away; then connect again."""

    def open_run(self, identity: RunIdentity, known_times: Collection[tuple[int, int]]) -> str:
        """Find the run or create it, and return its id.

        `known_times` are (step, timestamp_ms) of the spool: a run found by its directory alone is ours only if it
        holds one of them, since two machines may use the same path.
        """
        ...

    def set_params(self, params: Mapping[str, str]) -> None:
        """Log the parameters that the run does not have yet."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        ...

    def shipped_steps(self) -> dict[str, StepSet]:
        """Return what the tracker's own history holds, for each metric of ours that it has."""
        ...

    def log(self, points: Sequence[MetricPoint]) -> None:
        """Log metrics, a few thousand at most."""
        ...

    def set_status(self, status: RunStatus) -> None:
        """Say whether the run goes on, or how it ended."""
        ...


def points_of(record: SpoolRecord) -> list[MetricPoint]:
    """Return the metrics of one step; held-out losses only where they were measured."""
    values = {key: getattr(record.metrics, key) for key in METRIC_KEYS}
    values |= {f"{NAMED_LOSS_PREFIX}{name}": loss for name, loss in record.metrics.named_held_out_losses.items()}
    return [
        MetricPoint(key=key, value=float(value), step=record.metrics.step, timestamp_ms=timestamp_ms(record))
        for key, value in values.items()
        if value is not None
    ]


def timestamp_ms(record: SpoolRecord) -> int:
    """Return the time of a record in milliseconds, the same at every reading."""
    return int(record.time * 1000)
