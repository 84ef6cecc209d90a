from pathlib import Path

import pytest
from fake_run import run_values

from launcher.changes import _FREE, check_changes, describe_changes, find_changes
from llama_dist.config import ConfigError, RunConfig, dump_config, parse_run_config

PAGE = Path(__file__).parents[2] / "docs" / "launching.md"


def dumped(tmp_path, **changes):
    values = run_values(tmp_path)
    for path, value in changes.items():
        target = values
        *parents, leaf = path.split("__")
        for part in parents:
            target = target.setdefault(part, {})
        target[leaf] = value
    return dump_config(parse_run_config(values, where="test"))


FREE = {
    "runs_directory": "elsewhere",
    "parallel__pipeline_stages": 2,
    "parallel__zero_stage": 0,
    "batch__micro_batch_sequences": 2,
    "train__num_steps": 40,
    "train__activation_checkpointing": True,
    "evaluation__interval_steps": 3,
    "checkpoint__keep_last": 9,
    "metrics__audit_samples": True,
    "supervision__stop_grace_seconds": 3.0,
    "data__cache": {"directory": "cache", "max_bytes": 1000},
    "data__skip_samples": [{"first": 70, "last": 90}],
    "data__stages": [{"starts_at_tokens": 640, "weights": {"data": 2.0}}],
}
REFUSED = {
    "train__seed": 1,
    "train__precision": "bf16",
    "optimizer__learning_rate": 1e-5,
    "schedule__warmup_steps": 3,
    "batch__global_batch_sequences": 8,
    "data__shuffle_seed": 1,
    "data__sequence_length_tokens": 8,
    "metrics__experiment": "other",
}


@pytest.mark.parametrize(("path", "value"), FREE.items())
def test_topology_and_length_may_change_and_are_shown(tmp_path, path, value):
    changes, field = find_changes(dumped(tmp_path), dumped(tmp_path, **{path: value}), []), path.replace("__", ".")
    assert {change.verdict for change in changes} == {"free"}
    assert all(change.field == field or change.field.startswith(f"{field}.") for change in changes)
    if not isinstance(value, dict | list):
        assert [(change.field, change.new) for change in changes] == [(field, value)]
    check_changes("fake", changes)


@pytest.mark.parametrize(("path", "value"), REFUSED.items())
def test_what_changes_the_order_or_the_curve_is_refused_unless_named(tmp_path, path, value):
    old, new, field = dumped(tmp_path), dumped(tmp_path, **{path: value}), path.replace("__", ".")
    with pytest.raises(ConfigError) as refused:
        check_changes("fake", find_changes(old, new, []))
    assert refused.value.exit_code == 78
    assert f"[refused] {field}: " in str(refused.value)
    assert f"--allow-change {field}" in str(refused.value)
    check_changes("fake", find_changes(old, new, [field]))
    check_changes("fake", find_changes(old, new, [field.split(".")[0]]))


def test_a_new_length_is_told_to_move_the_learning_rate(tmp_path):
    changes = find_changes(dumped(tmp_path), dumped(tmp_path, train__num_steps=40), [])
    assert describe_changes(changes) == [
        "  [free] train.num_steps: 20 -> 40 (the learning rate of the steps to come follows the new length)"
    ]


def test_model_shapes_are_refused_even_when_named(tmp_path):
    changes = find_changes(dumped(tmp_path), dumped(tmp_path, model__num_layers=3), ["model", "model.num_layers"])
    with pytest.raises(ConfigError, match=r"\[never\] model.num_layers: 2 -> 3"):
        check_changes("fake", changes)


def test_a_source_is_appended_moved_or_named_and_the_ranks_check_the_data(tmp_path):
    (first,) = run_values(tmp_path)["data"]["sources"]
    old = dumped(tmp_path)
    appended = find_changes(old, dumped(tmp_path, data__sources=[first, {"path": "more", "weight": 0.0}]), [])
    assert {change.field for change in appended} == {f"data.sources.1.{name}" for name in ("path", "weight", "name")}
    moved = find_changes(old, dumped(tmp_path, data__sources=[{"path": "elsewhere", "name": "data"}]), [])
    assert {change.field for change in moved} == {"data.sources.0.path", "data.sources.0.name"}
    for changes in (appended, moved):
        assert {change.verdict for change in changes} == {"free"}
        assert all("must leave the samples so far as they were" in line for line in describe_changes(changes))


def test_another_weight_or_one_source_less_is_refused(tmp_path):
    two = [{"path": "a", "weight": 1.0}, {"path": "b", "weight": 1.0}]
    old = dumped(tmp_path, data__sources=two)
    for sources in ([two[0] | {"weight": 2.0}, two[1]], two[:1]):
        with pytest.raises(ConfigError, match=r"\[refused\] data\.sources\.[01]\.weight"):
            check_changes("fake", find_changes(old, dumped(tmp_path, data__sources=sources), []))


def test_the_same_config_has_no_changes(tmp_path):
    assert find_changes(dumped(tmp_path), dumped(tmp_path), []) == ()


def test_every_section_of_a_run_is_known_here():
    """A new section must be judged: whether it may change in a run is a decision, refused is the default."""
    judged = {"name", "runs_directory", "model", "data", "batch", "train", "optimizer", "schedule", "parallel"}
    assert set(RunConfig.model_fields) == judged | {"evaluation", "checkpoint", "metrics", "supervision"}


def test_the_page_names_every_field_that_may_change_freely():
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    free = " ".join(cells[1] for cells in rows if cells[2].strip().startswith("freely"))
    assert [field for field in _FREE if f"`{field}`" not in free and f"`{field}.*`" not in free] == []
