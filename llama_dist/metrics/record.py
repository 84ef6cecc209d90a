"""What is recorded of one optimizer step. Says nothing of where it is kept (`spool.py`) or shown (`console.py`)."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step of the whole job, the same on every rank but for memory."""

    step: int
    """Optimizer steps done: 1 after the first update."""

    tokens_seen: int
    """Training tokens of all ranks since the first step of the run, this step included."""

    loss: float
    """Mean cross-entropy over the tokens of the global batch, in nats."""

    learning_rate: float
    """Learning rate that this step used."""

    gradient_norm: float
    """L2 norm of the whole gradient before clipping."""

    tokens_per_second: float
    """Training tokens of all ranks per second of the step, evaluation and checkpoints left out."""

    step_seconds: float
    """Wall time of the step: reading the batch, forward, backward, update."""

    memory_gib: float
    """Peak so far of this rank: device memory on CUDA, resident set on the CPU. In GiB."""

    held_out_loss: float | None = None
    """Mean cross-entropy on the held-out sequences after this step, in nats; None where it was not measured."""

    skipped: bool = False
    """True where fp16 overflowed and no weight moved."""


@dataclass(frozen=True)
class SpoolRecord:
    """A step as the spool keeps it: with the attempt that did it and the time it ended."""

    attempt: int
    time: float
    """Seconds since 1970-01-01 UTC."""

    metrics: StepMetrics


def to_values(record: SpoolRecord) -> dict[str, Any]:
    """Plain values of one spool line."""
    return {"attempt": record.attempt, "time": record.time, **asdict(record.metrics)}


def from_values(values: Any) -> SpoolRecord | None:
    """Read what `to_values` wrote; None for anything else, for example half a line. Unknown keys are left out.

    A field that this version does not know may come from a newer one: the others still count.
    """
    if not isinstance(values, dict):
        return None
    try:
        return SpoolRecord(
            attempt=int(values["attempt"]),
            time=float(values["time"]),
            metrics=StepMetrics(**{name: _READERS[name](values[name]) for name in _NAMES if name in values}),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


_NAMES = tuple(field.name for field in fields(StepMetrics))
_READERS: dict[str, Any] = dict.fromkeys(_NAMES, float) | {
    "step": int,
    "tokens_seen": int,
    "held_out_loss": _optional_float,
    "skipped": bool,
}
