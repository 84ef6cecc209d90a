"""How the config of a launch differs from the run's last one, and which differences a run may take. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llama_dist.config import ConfigError

ABSENT = "(absent)"

# Topology, length and care: none of these changes which tokens a step reads. The length alone changes what later steps
# do with them: every schedule ends with it. Going on for longer is what a user means by it, so it is told, not refused.
_FREE = (
    *("runs_directory", "parallel", "batch.micro_batch_sequences"),
    *("train.num_steps", "train.activation_checkpointing"),
    *("evaluation", "checkpoint", "metrics", "supervision"),
    # The ranks compare what these say of the samples so far with the checkpoint, and refuse another past.
    *("data.stages", "data.skip_samples", "data.cache"),
)
_NOT_FREE = ("metrics.experiment",)  # the tracker's run would have to move
_NEVER = ("name", "model")  # checkpoints hold these shapes
_FUTURE_ONLY = "must leave the samples so far as they were: the ranks check it"
_NOTES = {
    "train.num_steps": "the learning rate of the steps to come follows the new length",
    "data.stages": _FUTURE_ONLY,
    "data.skip_samples": _FUTURE_ONLY,
    "data.sources": _FUTURE_ONLY,
}
# Where the data lies, and what stages call it; the checkpoint knows the data itself by its checksums.
_SOURCE_PLACE = re.compile(r"data\.sources\.\d+\.(path|name)")


@dataclass(frozen=True)
class Change:
    """One field whose value differs, and why it may or may not."""

    field: str
    old: Any
    new: Any
    verdict: Literal["free", "allowed", "refused", "never"]


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Sequence[str]) -> tuple[Change, ...]:
    """Compare two dumped configs. `allowed` holds fields, or sections, that the user named in `--allow-change`."""
    before, after = _flatten("", old), _flatten("", new)
    fields = sorted(before.keys() | after.keys())
    return tuple(
        Change(field, before.get(field, ABSENT), after.get(field, ABSENT), _verdict(field, before, allowed))
        for field in fields
        if before.get(field, ABSENT) != after.get(field, ABSENT)
    )


def check_changes(run_name: str, changes: Sequence[Change]) -> None:
    """Raise ConfigError that shows the whole difference if one change is refused."""
    refused = [change.field for change in changes if change.verdict == "refused"]
    never = [change.field for change in changes if change.verdict == "never"]
    if not refused and not never:
        return
    advice = [f"run `{run_name}` exists with another config:", *describe_changes(changes)]
    if never:
        advice.append(f"its checkpoints hold the old shapes ({', '.join(never)}): give the new run another name")
    if refused:
        flags = " ".join(f"--allow-change {field}" for field in refused)
        advice.append(f"give the new run another name, or, where the new order and curve are meant, add {flags}")
    raise ConfigError("\n".join(advice))


def allow_all(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Return the changes of a run that begins at step 0: none is refused."""
    return tuple(change if change.verdict == "free" else replace(change, verdict="allowed") for change in changes)


def describe_changes(changes: Sequence[Change]) -> list[str]:
    """Return one line a change, for example `  [refused] train.seed: 0 -> 1`."""
    return [
        f"  [{change.verdict}] {change.field}: {change.old!r} -> {change.new!r}"
        + "".join(f" ({note})" for field, note in _NOTES.items() if _is_below(change.field, [field]))
        for change in changes
    ]


def _verdict(
    field: str, before: Mapping[str, Any], allowed: Sequence[str]
) -> Literal["free", "allowed", "refused", "never"]:
    if _is_below(field, _NEVER):
        return "never"
    if _is_below(field, _FREE) and not _is_below(field, _NOT_FREE):
        return "free"
    is_appended = _is_below(field, ["data.sources"]) and field not in before
    if is_appended or _SOURCE_PLACE.fullmatch(field):
        return "free"
    return "allowed" if _is_below(field, allowed) else "refused"


def _is_below(field: str, prefixes: Sequence[str]) -> bool:
    return any(field == prefix or field.startswith(f"{prefix}.") for prefix in prefixes)


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    """Return dotted paths to the leaves; items of a list go by their number."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = tuple(value.items())
    elif isinstance(value, list):
        items = tuple(enumerate(value))
    if not items:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in items:
        leaves |= _flatten(f"{prefix}.{key}" if prefix else str(key), inner)
    return leaves
