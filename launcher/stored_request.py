"""A launch request as JSON: how it reaches a detached supervisor or a job of a scheduler.

A job may wait for days, in which the user edits the config files: it gets copies of what they said. An override may
hold a secret: it goes through a pipe or a file that its owner alone can read, never through an argument list.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_pipeline.config.yaml_file import dump_yaml
from launcher.launch import Launch, LaunchRequest
from launcher.records import write_json, write_text
from llama_dist.config import dump_config


def request_to_json(request: LaunchRequest) -> dict[str, Any]:
    """Plain values, its paths absolute."""
    values = asdict(request)
    values["run_file"] = str(request.run_file.absolute())
    values["cluster_file"] = str(request.cluster_file.absolute()) if request.cluster_file else None
    return values


def request_from_json(values: Mapping[str, Any]) -> LaunchRequest:
    """Read `request_to_json`."""
    return LaunchRequest(
        run_file=Path(values["run_file"]),
        cluster_file=Path(values["cluster_file"]) if values["cluster_file"] else None,
        overrides=tuple(values["overrides"]),
        allow_changes=tuple(values["allow_changes"]),
        fresh=values["fresh"],
        worker_module=values["worker_module"],
    )


def keep_request(launch: Launch, file: Path) -> None:
    """Write the request of a launch to `file`, and beside it both configs as they are now, overrides and model applied.

    Paths inside of the configs stay as they were written: relative ones count from the working directory.
    """
    request = launch.request
    run_file, cluster_file = file.with_suffix(".run.yaml"), file.with_suffix(".cluster.yaml")
    _keep(run_file, request.run_file, dump_config(launch.config))
    _keep(cluster_file, request.cluster_file, launch.cluster.model_dump(mode="json"))
    write_json(file, request_to_json(replace(request, run_file=run_file, cluster_file=cluster_file, overrides=())))


def _keep(path: Path, origin: Path | None, values: dict[str, Any]) -> None:
    """The first line says where the values are from; no character of a path can end it."""
    source = f"{str(origin.absolute())!a}" if origin else "this machine's defaults"
    write_text(path, f"# As submitted; from {source} and the overrides of that launch.\n{dump_yaml(values)}")
