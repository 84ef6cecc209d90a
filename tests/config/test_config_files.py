"""Files and `--set`: what is read is what was meant, and nothing in a file is executed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import ConfigError, read_yaml, write_yaml
from data_pipeline.config.yaml_file import parse_yaml
from llama_dist.config import load_cluster_config, load_run_config


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("1E5", 1e5), ("-2e+3", -2000.0), ("1.5e-3", 1.5e-3), ("2.e1", 20.0), ("'3e-4'", "3e-4")],
)
def test_a_number_with_an_exponent_is_a_number(text: str, value: object) -> None:
    parsed = parse_yaml(f"value: {text}", where="test")["value"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["e5", "3e", "1e5x", "0x1f_name", "abc-3e4"])
def test_text_that_only_looks_like_a_number_stays_text(text: str) -> None:
    assert parse_yaml(text, where="test") == text


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "x:\n  a: 1\n  a: 1\n"])
def test_a_key_given_twice_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"test: line 3, column \d: key `a` is given twice"):
        parse_yaml(text, where="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \xff\xfe", "not UTF-8 at byte 3"),
        (b"a: [1, 2", "not valid YAML"),
        (b"- 1\n- 2\n", "holds list, needs a mapping"),
        (b"", "holds NoneType, needs a mapping"),
        (b"1: one\n", "key 1 is not text: put it in quotes"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"a: !!python/name:os.system\n", "not valid YAML"),
        (b"name: 2024-13-45\n", "a value cannot be read: month must be in 1..12: put text in quotes"),
        (b"a: " + b"[" * 3000, "a value cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "absent.yaml")


def test_written_values_are_read_back_in_their_order(tmp_path: Path) -> None:
    values = {"zebra": 3e-4, "ant": [1, "3e-4", "1e5", "12"], "ümlaut": None, "1e5": "no"}
    write_yaml(tmp_path / "values.yaml", values)
    assert list(read_yaml(tmp_path / "values.yaml").items()) == list(values.items())


def test_a_run_file_may_name_its_model_file(run_file: Path) -> None:
    assert load_run_config(run_file).model.num_layers == 4


def test_a_missing_model_file_is_told_by_name(run_file: Path) -> None:
    (run_file.parent / "model.yaml").unlink()
    with pytest.raises(ConfigError, match=r"model\.yaml: cannot be read"):
        load_run_config(run_file)


def test_set_reaches_nested_fields_lists_and_the_inlined_model(run_file: Path) -> None:
    config = load_run_config(
        run_file,
        [
            "train.num_steps=7",
            "optimizer.learning_rate=3e-4",
            "data.sources.1.weight=0.5",
            "model.norm=layernorm",
            "metrics.mlflow=false",
            "schedule.decay_steps=null",
        ],
    )
    assert config.train.num_steps == 7
    assert config.optimizer.learning_rate == 3e-4
    assert [source.weight for source in config.data.sources] == [1.0, 0.5]
    assert config.model.norm == "layernorm"
    assert config.metrics.mlflow is False
    assert config.schedule.decay_steps is None


def test_a_later_set_wins(run_file: Path) -> None:
    assert load_run_config(run_file, ["train.num_steps=7", "train.num_steps=8"]).train.num_steps == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.num_steps", "--set train.num_steps: needs the form a.b=value"),
        ("=5", "needs the form a.b=value"),
        ("train..num_steps=5", "needs the form a.b=value"),
        ("train.num_step=5", "did you mean `num_steps`?"),
        ("train.num_steps=five", "train.num_steps: "),
        ("name.deep=1", "`name` is 'tiny', which has no fields"),
        ("data.sources.2.weight=1.0", "`2` is no place in a list of 2: use 0 to 1"),
        ("data.sources.x=1.0", "`x` is no place in a list of 2"),
        ("train.num_steps=[", "not valid YAML"),
    ],
)
def test_a_set_that_cannot_work_is_refused(run_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(run_file, [override])
    assert message in str(caught.value)


def test_cluster_settings_go_to_the_cluster_and_run_settings_to_the_run(run_file: Path, tmp_path: Path) -> None:
    overrides = ["cluster.num_processes_per_node=3", "train.num_steps=9"]
    assert load_run_config(run_file, overrides).train.num_steps == 9
    assert load_cluster_config(None, overrides).num_processes_per_node == 3
    write_yaml(tmp_path / "cluster.yaml", {"num_processes_per_node": 2, "rendezvous_port": 29500})
    cluster = load_cluster_config(tmp_path / "cluster.yaml", overrides)
    assert (cluster.num_processes_per_node, cluster.rendezvous_port) == (3, 29500)


@pytest.mark.parametrize("values", [{"rendezvous_port": 80}, {"backend": "carrier_pigeon"}, {"nodes": 2}])
def test_a_cluster_file_that_cannot_work_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    write_yaml(tmp_path / "cluster.yaml", values)
    with pytest.raises(ConfigError, match=next(iter(values))):
        load_cluster_config(tmp_path / "cluster.yaml")


def test_reading_a_config_imports_no_torch() -> None:
    program = "import sys, llama_dist.config; sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed')))"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
