"""Every rule between fields is broken by at least one config here, and holds for one beside it."""

from collections.abc import Callable
from typing import Any

import pytest

from data_pipeline.config import ConfigError
from llama_dist.config import RULES, RunConfig, check_rules

# rule, world size, changes that break it, what the message must say, changes (and world size) that hold
CASES: list[tuple[str, int, dict[str, Any], str, int, dict[str, Any]]] = [
    (
        "pipeline-divides-world",
        3,
        {"parallel.pipeline_stages": 2},
        "3 processes are not a multiple of 2 pipeline stages",
        4,
        {"parallel.pipeline_stages": 2},
    ),
    (
        "pipeline-needs-zero-0-or-1",
        2,
        {"parallel.pipeline_stages": 2, "parallel.zero_stage": 2},
        "set parallel.zero_stage to 0 or 1",
        2,
        {"parallel.pipeline_stages": 2, "parallel.zero_stage": 1},
    ),
    (
        "pipeline-needs-zero-0-or-1",
        2,
        {"parallel.pipeline_stages": 2, "parallel.zero_stage": 3},
        "zero_stage 3",
        2,
        {"parallel.pipeline_stages": 1, "parallel.zero_stage": 3},
    ),
    (
        "pipeline-stage-has-a-layer",
        8,
        {"parallel.pipeline_stages": 8},
        "8 pipeline stages for 4 layers: use at most 4",
        4,
        {"parallel.pipeline_stages": 4},
    ),
    (
        "layers-per-stage-add-up",
        2,
        {"parallel.pipeline_stages": 2, "parallel.layers_per_stage": [1, 2]},
        "give 2 numbers that add up to 4",
        2,
        {"parallel.pipeline_stages": 2, "parallel.layers_per_stage": [1, 3]},
    ),
    (
        "layers-per-stage-add-up",
        2,
        {"parallel.layers_per_stage": [1, 3]},
        "has 2 stages and 4 layers: give 1 numbers",
        2,
        {"parallel.layers_per_stage": [4]},
    ),
    (
        "offload-needs-zero",
        2,
        {"parallel.zero_stage": 0, "parallel.offload_optimizer": True},
        "set parallel.zero_stage to 1, 2 or 3",
        2,
        {"parallel.zero_stage": 2, "parallel.offload_optimizer": True},
    ),
    (
        "global-batch-divisible",
        12,
        {"batch.global_batch_sequences": 500, "batch.micro_batch_sequences": 4},
        "global_batch 500 sequences is not a multiple of 48 (micro_batch 4 x dp 12): use 480 or 528",
        12,
        {"batch.global_batch_sequences": 480, "batch.micro_batch_sequences": 4},
    ),
    (
        "global-batch-divisible",
        8,
        {},
        "use 16",
        8,
        {"parallel.pipeline_stages": 2},
    ),
    (
        "sequence-fits-model",
        1,
        {"data.sequence_length_tokens": 65},
        "data.sequence_length_tokens 65 is over model.max_sequence_length_tokens 64",
        1,
        {"data.sequence_length_tokens": 64},
    ),
    (
        "schedule-fits-run",
        1,
        {"schedule.warmup_steps": 101},
        "take 101 steps of a run of 100",
        1,
        {"schedule.warmup_steps": 100},
    ),
    (
        "schedule-fits-run",
        1,
        {"schedule.kind": "wsd", "schedule.warmup_steps": 60, "schedule.decay_steps": 41},
        "take 101 steps",
        1,
        {"schedule.kind": "wsd", "schedule.warmup_steps": 60, "schedule.decay_steps": 40},
    ),
    (
        "decay-steps-only-for-wsd",
        1,
        {"schedule.kind": "wsd"},
        "wsd needs decay_steps",
        1,
        {"schedule.kind": "wsd", "schedule.decay_steps": 10},
    ),
    (
        "decay-steps-only-for-wsd",
        1,
        {"schedule.kind": "linear", "schedule.decay_steps": 10},
        "the others refuse it",
        1,
        {"schedule.kind": "linear"},
    ),
    (
        "keep-best-is-measured",
        1,
        {"checkpoint.keep_best": 1},
        "nothing is measured; set evaluation.interval_steps",
        1,
        {"checkpoint.keep_best": 0},
    ),
    (
        "keep-best-is-measured",
        1,
        {"checkpoint.keep_best": 1, "checkpoint.interval_steps": 9, "evaluation.interval_steps": 20},
        "first meet at step 180 of 100: make one a multiple of the other",
        1,
        {"checkpoint.keep_best": 1, "checkpoint.interval_steps": 20, "evaluation.interval_steps": 10},
    ),
    (
        "backoff-ordered",
        1,
        {"supervision.first_backoff_seconds": 9.0, "supervision.max_backoff_seconds": 8.0},
        "first_backoff_seconds 9.0 is over max_backoff_seconds 8.0",
        1,
        {"supervision.first_backoff_seconds": 8.0, "supervision.max_backoff_seconds": 8.0},
    ),
]


def rules_broken(config: RunConfig, world_size: int) -> dict[str, str]:
    return {rule.name: message for rule in RULES if (message := rule.broken_by(config, world_size))}


@pytest.mark.parametrize(("name", "world_size", "breaking", "message", "good_world_size", "holding"), CASES)
def test_rule_is_broken_and_holds_where_it_should(
    make_run: Callable[..., RunConfig],
    name: str,
    world_size: int,
    breaking: dict[str, Any],
    message: str,
    good_world_size: int,
    holding: dict[str, Any],
) -> None:
    assert message in rules_broken(make_run(**breaking), world_size)[name]
    assert name not in rules_broken(make_run(**holding), good_world_size)


def test_every_rule_has_a_case_a_reason_and_a_name_of_its_own() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert {case[0] for case in CASES} == set(names)
    assert all(rule.reason for rule in RULES)


def test_every_broken_rule_is_told_at_once_with_its_reason(make_run: Callable[..., RunConfig]) -> None:
    config = make_run(**{"data.sequence_length_tokens": 65, "schedule.warmup_steps": 101})
    with pytest.raises(ConfigError) as caught:
        check_rules(config, 1)
    text = str(caught.value)
    assert caught.value.exit_code == 78
    for name in ("sequence-fits-model", "schedule-fits-run"):
        assert f"[{name}]" in text
        assert next(rule.reason for rule in RULES if rule.name == name) in text


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_good_run_breaks_no_rule(make_run: Callable[..., RunConfig], world_size: int) -> None:
    check_rules(make_run(), world_size)
