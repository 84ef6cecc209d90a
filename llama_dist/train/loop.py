"""The training loop. What it reads, saves and records is prepared elsewhere (`main.py`); the order is here."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from data_pipeline.config import ReportedError
from llama_dist.checkpoint.manifest import CheckpointError, SaveKind
from llama_dist.config import RunConfig
from llama_dist.metrics.meter import Meter
from llama_dist.metrics.record import StepMetrics
from llama_dist.optim.schedule import learning_rate
from llama_dist.parallel.engine import Engine, MicroBatch, StepResult
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.stop import StopAskedError, StopRequest
from llama_dist.train.batches import TrainingBatches
from llama_dist.train.decision import Decisions
from llama_dist.train.held_out import HeldOutText
from llama_dist.train.keeper import CheckpointKeeper, Position
from llama_dist.train.recorder import Recorder
from llama_dist.train.replicas import ReplicasDifferError, compare_replicas


class DivergedError(ReportedError):
    """Loss or gradient is no number any more. Going on would train, and save, rubbish."""

    exit_code = 78


@dataclass(frozen=True)
class Parts:
    """What the loop works with, assembled once."""

    config: RunConfig
    engine: Engine
    batches: TrainingBatches
    held_out: HeldOutText | None
    keeper: CheckpointKeeper
    recorder: Recorder
    heartbeat: Heartbeat
    stop: StopRequest
    decisions: Decisions
    meter: Meter
    tell: Callable[[str], None]
    """Prints a line, on rank 0 alone."""

    def tell_alerts(self) -> None:
        """Tell once what went wrong with saves. In mid-run it ends nothing, for the older checkpoints stand."""
        for alert in self.keeper.take_alerts():
            self.tell(f"ALERT: {alert}")


def train_steps(parts: Parts, position: Position) -> str | None:
    """Collective. Train from `position` to the last step, or until the ranks decide to leave: then answer why.

    Either end is saved.
    """
    try:
        return _train_steps(parts, position)
    except (DivergedError, ReplicasDifferError):
        # Every rank raises them alike: the save under way, of a step before, is what the run will go on from.
        with contextlib.suppress(CheckpointError):  # told by its alert
            parts.keeper.finish()
        parts.tell_alerts()
        raise


def _train_steps(parts: Parts, position: Position) -> str | None:
    config, left_because = parts.config, None
    first_step = position.step
    held_out_loss: float | None = None  # of `position`, where it was measured
    while position.step < config.train.num_steps:
        micro_batches = _read(parts, position)
        decision = parts.decisions.take()
        parts.tell_alerts()
        if decision.save:
            _save(parts, position, decision.save, held_out_loss)
        if decision.leave:
            left_because = decision.because
            parts.tell(f"{decision.because}: {decision.how}")
            break

        # The first step of an attempt compiles and connects: whoever watches gives it the time of a start.
        parts.heartbeat.beat(position.step, "train" if position.step > first_step else "first step")
        rate = learning_rate(position.step, config.optimizer, config.schedule, config.train.num_steps)
        result = parts.engine.train_batch(micro_batches, rate, parts.heartbeat.begin_micro_batch)
        if has_diverged(result, config.train.precision):
            raise DivergedError(_divergence_advice(position.step + 1, result))

        position = position.after_step(config.batch.global_batch_sequences)
        metrics = parts.meter.end_step(
            step=position.step,
            tokens_seen=position.consumed_samples * config.data.sequence_length_tokens,
            loss=result.loss,
            learning_rate=rate,
            gradient_norm=result.gradient_norm,
            skipped=result.skipped,
        )
        if is_interval(position.step, config.supervision.compare_replicas_interval_steps):
            compare_replicas(parts.engine, position.step)
        metrics = _evaluate(parts, metrics)
        held_out_loss = metrics.held_out_loss
        parts.recorder.record(metrics)

        if position.step == config.train.num_steps:
            _save(parts, position, "end", held_out_loss)
        elif is_interval(position.step, config.checkpoint.interval_steps):
            _save(parts, position, "interval", held_out_loss)
    parts.heartbeat.beat(position.step, "finish the save")
    parts.keeper.finish()  # raises: the last save must not fail
    parts.tell_alerts()
    return left_because


def is_interval(step: int, interval_steps: int) -> bool:
    """Whether something is due after `step` that is done every `interval_steps`; 0 is never."""
    return interval_steps > 0 and step % interval_steps == 0


def _read(parts: Parts, position: Position) -> list[MicroBatch]:
    """Read this rank's part of the next step; nothing, if a stop broke off the wait for it."""
    parts.heartbeat.beat(position.step, "read")
    parts.meter.start_step()
    micro_batches: list[MicroBatch] = []
    with contextlib.suppress(StopAskedError), parts.stop.interrupts():
        micro_batches = parts.batches.read(position)
    parts.meter.end_reading()
    return micro_batches


def _evaluate(parts: Parts, metrics: StepMetrics) -> StepMetrics:
    """Collective. Add the held-out losses, where they are due and no stop cuts them short."""
    if not (parts.held_out and parts.held_out.is_due(metrics.step)):
        return metrics
    parts.heartbeat.beat(metrics.step, "evaluate")
    losses = parts.held_out.losses(parts.engine, parts.decisions.any_stop, parts.heartbeat.begin_micro_batch)
    return metrics if losses is None else metrics.with_held_out(losses)


def has_diverged(result: StepResult, precision: str) -> bool:
    """Whether loss or gradient is no number, other than by an fp16 overflow, which a lower loss scale mends.

    DeepSpeed skips such a step in every precision: without this a diverged run would read all its data and learn
    nothing. At ZeRO-0 it does not skip: then the weights are lost already, and must not be saved.
    """
    is_finite = math.isfinite(result.loss) and math.isfinite(result.gradient_norm)
    return not (is_finite or (result.skipped and precision == "fp16"))


def _save(parts: Parts, position: Position, kind: SaveKind, held_out_loss: float | None = None) -> None:
    """Collective. Begin a save, which is written while training goes on; wait for the one before, if need be."""
    parts.heartbeat.beat(position.step, "save")
    parts.recorder.sync()
    parts.decisions.note_save()
    parts.keeper.save(parts.engine, position, kind=kind, held_out_loss=held_out_loss)


def _divergence_advice(step: int, result: StepResult) -> str:
    return (
        f"step {step} has loss {result.loss} and gradient norm {result.gradient_norm}: the run has diverged and was "
        "stopped before saving. "
        "Lower optimizer.learning_rate or lengthen schedule.warmup_steps, and launch again: it continues from the "
        "newest checkpoint (name the changed fields with --allow-change)."
    )
