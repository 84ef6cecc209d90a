"""What is told about a run beside its metrics: parameters, what later attempts changed, rewinds. Reads files only."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_dist.config import ConfigError, RunConfig, RunDirectory, dump_config, load_run_config, set_aside_attempt
from llama_dist.metrics.record import SpoolRecord

# The address of a tracking server is no property of the experiment, and may hold a password.
_LEFT_OUT = frozenset({"metrics.tracking_uri"})

_URI_CREDENTIALS = re.compile(r"(?<=://)[^/\s@][^\s@]*@")
_QUERY_SECRET = re.compile(r"([?&;][^=&;\s]*(?:passw(?:or)?d|token|secret|key)[^=&;\s]*=)[^&;\s]+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Return `text` with `user:password@` of any URI in it struck out, and secrets in its query."""
    return _QUERY_SECRET.sub(r"\1***", _URI_CREDENTIALS.sub("***@", text))


def attempt_numbers(directory: RunDirectory) -> list[int]:
    """Return the attempts that have a config, oldest first."""
    numbers = [int(path.name) for path in directory.attempts.glob("[0-9]*") if path.name.isdigit()]
    return sorted(number for number in numbers if directory.attempt_config(number).is_file())


def latest_config(directory: RunDirectory) -> RunConfig:
    """Return the config of the newest attempt, or of the first launch. Raises ConfigError."""
    numbers = attempt_numbers(directory)
    return load_run_config(directory.attempt_config(numbers[-1]) if numbers else directory.config)


def params_of(config: RunConfig) -> dict[str, str]:
    """Return the config as flat `a.b.0.c` names and text, without secrets."""
    flat = _flatten(dump_config(config))
    return {key: without_credentials(str(value)) for key, value in flat.items() if key not in _LEFT_OUT}


def attempt_tags(directory: RunDirectory) -> dict[str, str]:
    """Return how many attempts there were, what each changed in the config of the first launch, and the newest code."""
    numbers = _attempts_of_this_start(directory)
    tags = {"llama_dist.attempts": str(len(numbers))}
    first = params_of(load_run_config(directory.config))
    for number in numbers:
        try:
            changes = _changes(first, params_of(load_run_config(directory.attempt_config(number))))
        except ConfigError:  # of another version of the code: the attempt counts, its changes cannot be told
            changes = ""
        if changes:
            tags[f"llama_dist.attempt_{number:04d}.changes"] = changes
        revision = _code_revision(directory, number)
        if revision:
            tags["llama_dist.code_revision"] = revision
    return tags


def attempts_seen(directory: RunDirectory) -> list[tuple[int, bool]]:
    """Return what `attempt_tags` would read now, cheaply: the attempts, and whether their code is recorded yet."""
    return [(number, _code_record(directory, number).is_file()) for number in _attempts_of_this_start(directory)]


class RewindLog:
    """Finds, in the order of the spool, where an attempt did steps again that an earlier one had done."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self._attempt = 0
        self._furthest_step = 0

    def add(self, records: Iterable[SpoolRecord]) -> None:
        """Take in records; `tags` then holds a line for each rewind so far."""
        for record in records:
            step = record.metrics.step
            if record.attempt != self._attempt and step <= self._furthest_step:
                key = f"llama_dist.attempt_{record.attempt:04d}.rewind"
                self.tags[key] = f"resumed after step {step - 1}; an earlier attempt had reached {self._furthest_step}"
            self._attempt = record.attempt
            self._furthest_step = max(self._furthest_step, step)


def _attempts_of_this_start(directory: RunDirectory) -> list[int]:
    """Return the attempts since the run last began at step 0: those before it belong to another run of the tracker."""
    starts = [set_aside_attempt(path) or 0 for path in directory.path.glob("*.before_attempt_*")]
    return [number for number in attempt_numbers(directory) if number >= max(starts, default=0)]


def _code_record(directory: RunDirectory, number: int) -> Path:
    return directory.attempt(number) / "code.json"


def _code_revision(directory: RunDirectory, number: int) -> str | None:
    try:
        record = json.loads(_code_record(directory, number).read_text(encoding="utf-8"))
        revision = record["git_revision"]
        return f"{revision} with local changes" if revision and record.get("git_dirty") else revision
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _changes(before: dict[str, str], after: dict[str, str]) -> str:
    lines = [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    return "\n".join(lines)


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flatten(inner, f"{path}.{key}" if path else str(key))
    return flat
