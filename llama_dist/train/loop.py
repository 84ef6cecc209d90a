"""The training loop. What it reads, saves and records is prepared elsewhere (`main.py`); the order is here."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from data_pipeline.config import ReportedError
from llama_dist.checkpoint.manifest import SaveKind
from llama_dist.config import RunConfig
from llama_dist.metrics.meter import Meter
from llama_dist.optim.schedule import learning_rate
from llama_dist.parallel.engine import Engine, StepResult
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.process_group import any_rank
from llama_dist.runtime.stop import StopRequest
from llama_dist.train.batches import TrainingBatches
from llama_dist.train.held_out import HeldOutText
from llama_dist.train.keeper import CheckpointKeeper, Position
from llama_dist.train.recorder import Recorder


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
    meter: Meter
    tell: Callable[[str], None]
    """Prints a line, on rank 0 alone."""


def train_steps(parts: Parts, position: Position) -> bool:
    """Collective. Train from `position` to the last step; False if asked to stop before it. Both ends are saved."""
    config = parts.config
    while position.step < config.train.num_steps:
        parts.heartbeat.beat(position.step, "train")
        parts.meter.start_step()
        micro_batches = parts.batches.read(position)
        parts.meter.end_reading()
        rate = learning_rate(position.step, config.optimizer, config.schedule, config.train.num_steps)
        result = parts.engine.train_batch(micro_batches, rate)
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
        if parts.held_out and parts.held_out.is_due(position.step):
            parts.heartbeat.beat(position.step, "evaluate")
            metrics = metrics.with_held_out(parts.held_out.losses(parts.engine))
        parts.recorder.record(metrics)

        stopping = any_rank(parts.stop.is_made)
        kind = _kind_of_save(config, position.step, stopping=stopping)
        if kind:
            _save(parts, position, kind)
        if stopping:
            break
    parts.keeper.finish()
    return position.step == config.train.num_steps


def has_diverged(result: StepResult, precision: str) -> bool:
    """Whether loss or gradient is no number, other than by an fp16 overflow, which a lower loss scale mends.

    DeepSpeed skips such a step in every precision: without this a diverged run would read all its data and learn
    nothing. At ZeRO-0 it does not skip: then the weights are lost already, and must not be saved.
    """
    is_finite = math.isfinite(result.loss) and math.isfinite(result.gradient_norm)
    return not (is_finite or (result.skipped and precision == "fp16"))


def _kind_of_save(config: RunConfig, step: int, *, stopping: bool) -> SaveKind | None:
    """Why a checkpoint is due after `step`, if one is."""
    if step == config.train.num_steps:
        return "end"
    if stopping:
        return "stop"
    return "interval" if step % config.checkpoint.interval_steps == 0 else None


def _save(parts: Parts, position: Position, kind: SaveKind) -> None:
    """Collective. A save that fails in mid-run is an alert, for the older checkpoint stands; the last one must not."""
    parts.heartbeat.beat(position.step, "save")
    parts.recorder.sync()
    parts.keeper.save(parts.engine, position, kind=kind)
    for alert in parts.keeper.take_alerts():
        parts.tell(f"ALERT: {alert}. Training goes on; free the disk before the next save.")


def _divergence_advice(step: int, result: StepResult) -> str:
    return (
        f"step {step} has loss {result.loss} and gradient norm {result.gradient_norm}: the run has diverged and was "
        "stopped before saving. "
        "Lower optimizer.learning_rate or lengthen schedule.warmup_steps, and launch again: it continues from the "
        "newest checkpoint (name the changed fields with --allow-change)."
    )
