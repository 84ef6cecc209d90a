"""From files and `--set` to a checked RunConfig, and back to plain values for `run.yaml`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.config import ConfigError, parse_config, read_yaml
from data_pipeline.config.yaml_file import parse_yaml
from llama_dist.config.cluster import ClusterConfig
from llama_dist.config.run import RunConfig

_CLUSTER_PREFIX = "cluster."


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file, inline its model file, apply `a.b=c` overrides. Raises ConfigError."""
    values = read_yaml(path)
    model = values.get("model")
    if isinstance(model, str):
        values["model"] = read_yaml(path.parent / model)
    for override in overrides:
        key, value = _split_override(override)
        if not key.startswith(_CLUSTER_PREFIX):
            _set_path(values, key.split("."), value, override)
    return parse_run_config(values, where=str(path))


def parse_run_config(values: dict[str, Any], *, where: str) -> RunConfig:
    """Build a RunConfig from plain values, for example a run directory's `run.yaml`. Raises ConfigError."""
    return parse_config(RunConfig, values, where=where)


def load_cluster_config(path: Path | None, overrides: Sequence[str] = ()) -> ClusterConfig:
    """Read a cluster file, or this machine's defaults without one; `cluster.a=b` overrides apply."""
    values = read_yaml(path) if path else {}
    for override in overrides:
        key, value = _split_override(override)
        if key.startswith(_CLUSTER_PREFIX):
            _set_path(values, key.removeprefix(_CLUSTER_PREFIX).split("."), value, override)
    return parse_config(ClusterConfig, values, where=str(path or "this machine's defaults"))


def dump_config(config: RunConfig) -> dict[str, Any]:
    """Plain values that `parse_run_config` reads back to an equal config."""
    return config.model_dump(mode="json")


def _split_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: needs the form a.b=value")
    return key, parse_yaml(text, where=f"--set {override}")


def _set_path(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    """Set one nested value; lists are addressed by number, as in `data.sources.0.weight`."""
    target: Any = values
    for part in path[:-1]:
        if isinstance(target, list):
            target = target[_list_index(part, target, override)]
        else:
            target = target.setdefault(part, {})
        if not isinstance(target, dict | list):
            raise ConfigError(f"--set {override}: `{part}` is {target!r}, which has no fields")
    if isinstance(target, list):
        target[_list_index(path[-1], target, override)] = value
    else:
        target[path[-1]] = value


def _list_index(part: str, values: list[Any], override: str) -> int:
    if not part.isdigit() or int(part) >= len(values):
        raise ConfigError(
            f"--set {override}: `{part}` is no place in a list of {len(values)}: use 0 to {len(values) - 1}"
        )
    return int(part)
