"""A launch request as JSON: how it reaches a detached supervisor or a job of a scheduler.

An override may hold a secret: it goes through a pipe or a file that its owner alone can read, never through an
argument list.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.launch import LaunchRequest


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
