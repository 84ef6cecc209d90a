"""A config says exactly what it means: unknown keys, other types and impossible shapes are errors with an answer."""

from collections.abc import Callable
from typing import Any

import pytest

from data_pipeline.config import ConfigError, DataConfig, parse_config
from llama_dist.config import ModelConfig, RunConfig, dump_config, parse_run_config


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("batch.global_batch_sequence", "did you mean `global_batch_sequences`?"),
        ("model.hiden_size", "did you mean `hidden_size`?"),
        ("optimiser", "did you mean `optimizer`?"),
        ("parallel.zero", "did you mean `zero_stage`?"),
        ("parallel.xyzzy", "known here: layers_per_stage, offload_optimizer, pipeline_stages, zero_stage"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(
    make_run: Callable[..., RunConfig], path: str, advice: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_run(**{path: 3})
    assert f"{path}: unknown key" in str(caught.value)
    assert advice in str(caught.value)
    assert caught.value.exit_code == 78


def test_an_unknown_key_inside_a_list_is_named_by_its_place(run_values: dict[str, Any]) -> None:
    run_values["data"]["sources"][1]["wieght"] = 1.0
    with pytest.raises(ConfigError, match=r"data\.sources\.1\.wieght: unknown key; did you mean `weight`\?"):
        parse_run_config(run_values, where="test")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.num_steps", "100"),
        ("train.num_steps", 100.5),
        ("train.num_steps", 0),
        ("train.num_steps", True),
        ("train.activation_checkpointing", "yes"),
        ("train.precision", "fp8"),
        ("optimizer.learning_rate", "3e-4"),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.beta1", 1.0),
        ("parallel.zero_stage", 4),
        ("schedule.final_learning_rate_ratio", 1.5),
        ("name", "../elsewhere"),
        ("name", ""),
        ("model", "a file that nothing has read"),
        ("data.sources", []),
    ],
)
def test_a_value_of_another_type_or_range_is_refused_and_shown(
    make_run: Callable[..., RunConfig], path: str, value: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_run(**{path: value})
    assert f"{path}: " in str(caught.value)
    assert f"got {value!r}" in str(caught.value)


def test_every_fault_is_told_at_once(run_values: dict[str, Any]) -> None:
    del run_values["batch"]
    run_values["train"]["num_steps"] = "many"
    run_values["colour"] = "blue"
    with pytest.raises(ConfigError) as caught:
        parse_run_config(run_values, where="runs/tiny.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("runs/tiny.yaml: ")
    assert {line.split(":")[0].strip() for line in lines[1:]} == {"batch", "train.num_steps", "colour"}
    assert "  batch: required, but absent" in lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "hidden_size 16 is not a multiple of num_heads 3"),
        ({"num_heads": 16}, "head size 1 is odd"),
        ({"attention": "grouped_query"}, "num_kv_heads None does not divide num_heads 2"),
        ({"attention": "grouped_query", "num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 2"),
        ({"attention": "multi_head", "num_kv_heads": 1}, "num_kv_heads 1 contradicts attention `multi_head`"),
        ({"attention": "multi_query", "num_kv_heads": 2}, "num_kv_heads 2 contradicts attention `multi_query`"),
    ],
)
def test_heads_that_cannot_work_are_refused(run_values: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(ModelConfig, run_values["model"] | changes, where="model")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "kv_heads", "head_size"),
    [
        ({}, 2, 8),
        ({"attention": "multi_query"}, 1, 8),
        ({"attention": "grouped_query", "num_kv_heads": 1}, 1, 8),
        ({"num_heads": 3, "head_size": 6}, 3, 6),
    ],
)
def test_heads_are_resolved(run_values: dict[str, Any], changes: dict[str, Any], kv_heads: int, head_size: int) -> None:
    config = parse_config(ModelConfig, run_values["model"] | changes, where="model")
    assert (config.kv_heads, config.resolved_head_size) == (kv_heads, head_size)


def test_a_config_cannot_be_changed_after_it_was_checked(make_run: Callable[..., RunConfig]) -> None:
    config = make_run()
    with pytest.raises(ValueError, match="frozen"):
        config.train.num_steps = 5  # type: ignore[misc]


def test_dumped_values_are_read_back_to_an_equal_config(make_run: Callable[..., RunConfig]) -> None:
    config = make_run(**{"optimizer.learning_rate": 1e-3, "schedule.kind": "wsd", "schedule.decay_steps": 5})
    assert parse_run_config(dump_config(config), where="test") == config


def test_data_config_stands_alone() -> None:
    config = parse_config(DataConfig, {"sources": [{"path": "somewhere"}]}, where="data")
    assert config.sources[0].weight == 1.0
    with pytest.raises(ConfigError, match=r"sources\.0\.weight: .*greater than or equal to 0"):
        parse_config(DataConfig, {"sources": [{"path": "somewhere", "weight": -0.5}]}, where="data")
