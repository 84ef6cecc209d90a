"""Rules between fields, each with a name, a reason and a test. One that is broken stops a run before it starts."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from data_pipeline.config import ConfigError
from llama_dist.config.run import RunConfig


@dataclass(frozen=True)
class Rule:
    """`broken_by(config, world_size)` answers what to say to the user, or None where the rule holds."""

    name: str
    reason: str
    broken_by: Callable[[RunConfig, int], str | None]


def check_rules(config: RunConfig, world_size: int) -> None:
    """Raise ConfigError with every rule that `config` breaks on `world_size` processes."""
    broken = [(rule, message) for rule in RULES if (message := rule.broken_by(config, world_size))]
    if broken:
        lines = "\n".join(f"  [{rule.name}] {message}\n    why: {rule.reason}" for rule, message in broken)
        raise ConfigError(f"run `{config.name}` on {world_size} process(es) breaks these rules:\n{lines}")


def data_parallel_size(config: RunConfig, world_size: int) -> int:
    """Replicas that split the batch; at least 1, so that one broken rule does not break the next."""
    return max(1, world_size // config.parallel.pipeline_stages)


def _pipeline_divides_world(config: RunConfig, world_size: int) -> str | None:
    stages = config.parallel.pipeline_stages
    if world_size % stages:
        return f"{world_size} processes are not a multiple of {stages} pipeline stages: use another number of either"
    return None


def _pipeline_needs_low_zero(config: RunConfig, _world_size: int) -> str | None:
    if config.parallel.pipeline_stages > 1 and config.parallel.zero_stage > 1:
        return (
            f"pipeline_stages {config.parallel.pipeline_stages} with zero_stage {config.parallel.zero_stage}: "
            "set parallel.zero_stage to 0 or 1, or parallel.pipeline_stages to 1"
        )
    return None


def _pipeline_has_layers(config: RunConfig, _world_size: int) -> str | None:
    stages, layers = config.parallel.pipeline_stages, config.model.num_layers
    if stages > layers:
        return f"{stages} pipeline stages for {layers} layers: use at most {layers} stages"
    return None


def _stages_add_up(config: RunConfig, _world_size: int) -> str | None:
    blocks, stages, layers = config.parallel.layers_per_stage, config.parallel.pipeline_stages, config.model.num_layers
    if blocks is not None and (len(blocks) != stages or sum(blocks) != layers):
        return (
            f"layers_per_stage {blocks} has {len(blocks)} stages and {sum(blocks)} layers: give {stages} numbers that "
            f"add up to {layers}, or leave the field out for an even cut"
        )
    return None


def _offload_needs_zero(config: RunConfig, _world_size: int) -> str | None:
    parallel = config.parallel
    if parallel.offload_optimizer and (parallel.zero_stage == 0 or parallel.pipeline_stages > 1):
        return (
            f"offload_optimizer with zero_stage {parallel.zero_stage} and pipeline_stages {parallel.pipeline_stages}: "
            "set parallel.zero_stage to 1, 2 or 3 and parallel.pipeline_stages to 1, or parallel.offload_optimizer to "
            "false"
        )
    return None


def _batch_divides(config: RunConfig, world_size: int) -> str | None:
    replicas = data_parallel_size(config, world_size)
    per_pass = config.batch.micro_batch_sequences * replicas
    batch = config.batch.global_batch_sequences
    if batch % per_pass:
        lower, upper = batch // per_pass * per_pass, (batch // per_pass + 1) * per_pass
        advice = f"{lower} or {upper}" if lower else f"{upper}"
        return (
            f"global_batch {batch} sequences is not a multiple of {per_pass} "
            f"(micro_batch {config.batch.micro_batch_sequences} x dp {replicas}): use {advice}"
        )
    return None


def _sequence_fits_model(config: RunConfig, _world_size: int) -> str | None:
    length, longest = config.data.sequence_length_tokens, config.model.max_sequence_length_tokens
    if length > longest:
        return f"data.sequence_length_tokens {length} is over model.max_sequence_length_tokens {longest}: raise or cut"
    return None


def _schedule_fits_run(config: RunConfig, _world_size: int) -> str | None:
    used = config.schedule.warmup_steps + (config.schedule.decay_steps or 0)
    if used > config.train.num_steps:
        return f"warm-up and decay take {used} steps of a run of {config.train.num_steps}: shorten them"
    return None


def _decay_belongs_to_wsd(config: RunConfig, _world_size: int) -> str | None:
    if (config.schedule.kind == "wsd") != (config.schedule.decay_steps is not None):
        return (
            f"schedule.kind `{config.schedule.kind}` with decay_steps {config.schedule.decay_steps}: "
            "wsd needs decay_steps, the others refuse it"
        )
    return None


def _backoff_is_ordered(config: RunConfig, _world_size: int) -> str | None:
    first, longest = config.supervision.first_backoff_seconds, config.supervision.max_backoff_seconds
    if first > longest:
        return f"first_backoff_seconds {first} is over max_backoff_seconds {longest}: swap or even them"
    return None


def _best_can_be_measured(config: RunConfig, _world_size: int) -> str | None:
    """The last step is evaluated and saved in any case: a `keep_best` that it alone meets keeps no other."""
    evaluation, checkpoint = config.evaluation.interval_steps, config.checkpoint
    if not checkpoint.keep_best:
        return None
    if not evaluation:
        return (
            f"checkpoint.keep_best {checkpoint.keep_best} with evaluation.interval_steps 0: nothing is measured; set "
            "evaluation.interval_steps, or checkpoint.keep_best to 0"
        )
    meets_every = math.lcm(evaluation, checkpoint.interval_steps)
    if meets_every > config.train.num_steps:
        return (
            f"checkpoint.keep_best {checkpoint.keep_best}: evaluation.interval_steps {evaluation} and "
            f"checkpoint.interval_steps {checkpoint.interval_steps} first meet at step {meets_every} of "
            f"{config.train.num_steps}: make one a multiple of the other"
        )
    return None


RULES: tuple[Rule, ...] = (
    Rule("pipeline-divides-world", "every replica needs one process per stage", _pipeline_divides_world),
    Rule(
        "pipeline-needs-zero-0-or-1",
        "a pipeline accumulates whole gradients over micro-batches, which ZeRO 2 and 3 have cut",
        _pipeline_needs_low_zero,
    ),
    Rule("pipeline-stage-has-a-layer", "more stages than blocks leave stages without work", _pipeline_has_layers),
    Rule("layers-per-stage-add-up", "every block belongs to one stage", _stages_add_up),
    Rule(
        "offload-needs-zero",
        "the optimizer's state is moved by ZeRO, and not by the pipeline engine",
        _offload_needs_zero,
    ),
    Rule("global-batch-divisible", "each replica takes the same number of micro-batches a step", _batch_divides),
    Rule("sequence-fits-model", "positions past the model's longest were never meant", _sequence_fits_model),
    Rule("schedule-fits-run", "the learning rate must reach its end inside the run", _schedule_fits_run),
    Rule("decay-steps-only-for-wsd", "cosine and linear decay over the whole run", _decay_belongs_to_wsd),
    Rule(
        "keep-best-is-measured",
        "a checkpoint counts among the best by the held-out loss of its very step",
        _best_can_be_measured,
    ),
    Rule("backoff-ordered", "the wait between attempts grows up to its cap", _backoff_is_ordered),
)
