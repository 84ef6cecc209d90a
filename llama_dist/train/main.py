"""The trainer, assembled: one function that builds the parts in order and starts the loop.

Started by the launcher, one process per rank, through `__main__.py`.
"""

import json
from collections.abc import Callable
from importlib.metadata import version

import torch

from data_pipeline.config import read_yaml
from data_pipeline.errors import DataError
from data_pipeline.stream import TokenStream, open_stream
from llama_dist.config import ConfigError, RunConfig, check_rules, parse_run_config
from llama_dist.metrics.meter import Meter, peak_resident_bytes
from llama_dist.optim.adamw import build_adamw
from llama_dist.parallel.build import build_engine, join_deepspeed
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.process_group import peers_named, process_group
from llama_dist.runtime.stop import StopRequest
from llama_dist.runtime.world import World
from llama_dist.train.attempt import Attempt
from llama_dist.train.batches import SampleAudit, TrainingBatches
from llama_dist.train.decision import Decisions
from llama_dist.train.held_out import HeldOutText, open_held_out_sets
from llama_dist.train.keeper import CheckpointKeeper, Position
from llama_dist.train.loop import Parts, train_steps
from llama_dist.train.recorder import Recorder
from llama_dist.train.replicas import ReplicaComparison
from llama_dist.train.save_request import SaveRequest

_UPLOAD_AT_THE_END_SECONDS = 3600.0


def train(attempt: Attempt, heartbeat: Heartbeat, stop: StopRequest) -> str | None:
    """Build every part, resume, and train. Answers why it left before the last step, None if it did not.

    Raises ReportedError, and StopAskedError where a stop comes before the first step.
    """
    run, world, tell = attempt.run, attempt.world, _teller(attempt.world)
    config = parse_run_config(read_yaml(run.attempt_config(attempt.number)), where=str(run.config))
    check_rules(config, world.world_size)
    grid = Grid(world.rank, world.world_size, config.parallel.pipeline_stages)

    stream = open_stream(config.data)
    _check_vocabulary(stream, config)
    audit = SampleAudit(run.metrics, world.rank, attempt.fence) if config.metrics.audit_samples else None
    batches = TrainingBatches(stream, grid, config, audit)
    held_out = None
    if config.evaluation.interval_steps:
        held_out = HeldOutText(open_held_out_sets(config, stream), grid, config)

    with (
        peers_named(world, heartbeat.where),
        process_group(world, config.supervision.process_group_timeout_seconds),
    ):
        heartbeat.beat(0, "build")
        join_deepspeed()
        engine = build_engine(config, grid, lambda named: build_adamw(named, config.optimizer))

        heartbeat.beat(0, "resume")
        keeper = CheckpointKeeper(run, world, config, stream, _code_revision(attempt), attempt.fence)
        position = keeper.restore_newest(engine, tell)
        _check_steps_left(position, config)

        recorder = Recorder(run.metrics, attempt.fence, config.train.num_steps, rank=world.rank, tell=tell)
        meter = Meter(tokens_per_step=_tokens_per_step(config), peak_memory_bytes=_peak_memory_bytes())
        decisions = Decisions(config, attempt, stop, keeper, SaveRequest(run.save_request, attempt.fence))
        replicas = ReplicaComparison(engine, config.supervision.compare_replicas_interval_steps)
        parts = Parts(
            config, engine, batches, held_out, keeper, recorder, heartbeat, stop, decisions, replicas, meter, tell
        )
        stop.defer()
        left_because = train_steps(parts, position)
        heartbeat.beat(heartbeat.step, "copy to the store")
        keeper.finish_uploads(_seconds_to_upload(left_because, stop, config))
        parts.tell_alerts()
        recorder.close()
        heartbeat.beat(heartbeat.step, "stopped" if left_because else "done")
    return left_because


def _teller(world: World) -> Callable[[str], None]:
    """Print on rank 0 alone: the run speaks with one voice."""
    return lambda line: print(line, flush=True) if world.rank == 0 else None


def _check_vocabulary(stream: TokenStream, config: RunConfig) -> None:
    if stream.vocabulary_size > config.model.vocabulary_size:
        raise DataError(
            f"the data's tokenizer has {stream.vocabulary_size} ids, model.vocabulary_size is "
            f"{config.model.vocabulary_size}: set model.vocabulary_size to at least {stream.vocabulary_size}"
        )


def _check_steps_left(position: Position, config: RunConfig) -> None:
    if position.step > config.train.num_steps:
        raise ConfigError(
            f"the newest checkpoint is of step {position.step}, train.num_steps is {config.train.num_steps}: set "
            f"train.num_steps to at least {position.step}, or start again with --fresh"
        )


def _code_revision(attempt: Attempt) -> str:
    """Version of this program, and the git revision that the launcher recorded, where there is one."""
    path = attempt.run.attempt(attempt.number) / "code.json"
    recorded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    revision = recorded.get("git_revision")
    return f"{version('llama-dist')} {revision}" if revision else version("llama-dist")


def _tokens_per_step(config: RunConfig) -> int:
    return config.batch.global_batch_sequences * config.data.sequence_length_tokens


def _seconds_to_upload(left_because: str | None, stop: StopRequest, config: RunConfig) -> float:
    """How long the end may wait for copies of checkpoints: a stop must keep its grace, a finished run has time."""
    if left_because is None:
        return _UPLOAD_AT_THE_END_SECONDS
    return max(0.0, config.supervision.stop_grace_seconds / 2 - stop.seconds_ago) if stop.is_made else 0.0


def _peak_memory_bytes() -> Callable[[], int]:
    return torch.cuda.max_memory_allocated if torch.cuda.is_available() else peak_resident_bytes
