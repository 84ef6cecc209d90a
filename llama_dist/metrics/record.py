"""What is recorded of one optimizer step. Says nothing of where it is kept (`spool.py`) or shown (`console.py`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from llama_dist.config import DEFAULT_SET_NAME

NAMED_LOSS_PREFIX = "held_out_loss/"
"""What stands before the name of an evaluation set in its metric's name."""


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step of the whole job, the same on every rank but for memory."""

    step: int
    """Optimizer steps done: 1 after the first update."""

    tokens_seen: int
    """Training tokens of all ranks since the first step of the run, this step included."""

    loss: float
    """Mean cross-entropy over the labels of the global batch that are not masked, in nats."""

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

    data_stall_seconds: float = 0.0
    """Part of `step_seconds` in which rank 0 waited for its batch."""

    named_held_out_losses: Mapping[str, float] = field(default_factory=dict)
    """The same as `held_out_loss` for each set of `evaluation.sets`, by its name; empty where not measured."""

    def with_held_out(self, losses: Mapping[str, float]) -> "StepMetrics":
        """Add the loss of each evaluation set, by its name."""
        named = {name: loss for name, loss in losses.items() if name != DEFAULT_SET_NAME}
        return replace(self, held_out_loss=losses[DEFAULT_SET_NAME], named_held_out_losses=named)


@dataclass(frozen=True)
class SpoolRecord:
    """A step as the spool keeps it: with the attempt that did it and the time it ended."""

    attempt: int
    time: float
    """Seconds since 1970-01-01 UTC."""

    metrics: StepMetrics


def to_values(record: SpoolRecord) -> dict[str, Any]:
    """Plain values of one spool line, all in one level."""
    values = asdict(record.metrics)
    named = values.pop("named_held_out_losses")
    return {
        "attempt": record.attempt,
        "time": record.time,
        **values,
        **{f"{NAMED_LOSS_PREFIX}{name}": loss for name, loss in named.items()},
    }


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
            metrics=StepMetrics(
                **{name: _READERS[name](values[name]) for name in _NAMES if name in values},
                named_held_out_losses={
                    key.removeprefix(NAMED_LOSS_PREFIX): float(value)
                    for key, value in values.items()
                    if key.startswith(NAMED_LOSS_PREFIX)
                },
            ),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


_NAMES = tuple(one.name for one in fields(StepMetrics) if one.name != "named_held_out_losses")
_READERS: dict[str, Any] = dict.fromkeys(_NAMES, float) | {
    "step": int,
    "tokens_seen": int,
    "held_out_loss": _optional_float,
    "skipped": bool,
}
