"""What the optimizer file of one rank holds, checked: flat partitions of master weights and moments, step, loss scale.

Keys as of DeepSpeed 0.19.8: checkpoint/constants.py, and `state_dict` of runtime/zero/stage_1_and_2.py, stage3.py and
runtime/bf16_optimizer.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.inert_file import InertRecord, read_inert
from llama_dist.parallel.engine import STATES
from llama_dist.parallel.scalars import SCALER_FIELDS

_MOMENTS = STATES[1:]
_MOST = 2**53
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class RankState:
    """The part of one data parallel rank."""

    path: Path
    zero_stage: int
    num_ranks: int
    partitions: dict[str, list[torch.Tensor]]
    """For each state that it has, one flat tensor a group (ZeRO 3: a sub-group)."""

    paddings: list[list[int]] | None
    """Elements left empty after each parameter, by group; None where there are none."""

    scalars: dict[str, float]
    """Optimizer steps where there are moments, and the state of a dynamic loss scale."""


def read_rank(path: Path) -> RankState:
    """Read one `..._optim_states.pt`. Raises ExchangeError for a foreign file, CheckpointError for a damaged one."""
    state = read_inert(path).get("optimizer_state_dict")
    if not isinstance(state, Mapping):
        raise foreign(path, "optimizer_state_dict", state)
    zero_stage = _whole_number(path, "zero_stage", state.get("zero_stage", 1))  # BF16_Optimizer, of ZeRO 1, names none
    if zero_stage not in (1, 2, 3):
        raise foreign(path, "zero_stage", zero_stage)
    counts = state.get("partition_count")
    counts = counts if isinstance(counts, list) and counts else [counts]
    num_ranks = max(_whole_number(path, "partition_count", count) for count in counts)
    key = "fp32_flat_groups" if zero_stage == 3 else "single_partition_of_fp32_groups"
    weights = _flat_tensors(path, key, state.get(key))
    inner = state.get("optimizer_state_dict" if zero_stage == 3 else "base_optimizer_state")
    moments, steps = _moments(path, inner, state, len(weights))
    return RankState(
        path,
        zero_stage,
        num_ranks,
        {STATES[0]: weights, **moments},
        _paddings(path, state.get("param_alignment_paddings")),
        ({"optimizer_steps": steps} | _loss_scale(state.get("loss_scaler"))) if moments else {},
    )


def _moments(
    path: Path, inner: Any, state: Mapping[str, Any], num_groups: int
) -> tuple[dict[str, list[torch.Tensor]], float]:
    """Both moments of every group and the steps done; nothing where the optimizer has not both, or has not stepped."""
    groups = _states_by_group(inner)
    found = [group for group in groups if all(moment in group for moment in _MOMENTS)]
    if not found:
        return {}, 0.0
    if len(found) != num_groups:
        raise ExchangeError(f"{path}: {len(found)} of {num_groups} groups have moments: all must, or none")
    counts = {_whole_number(path, "step", count) for count in _step_counts(found, inner, state) if count is not None}
    if len(counts) != 1:
        raise ExchangeError(f"{path}: the groups have done {sorted(counts)} optimizer steps: needs one number for all")
    moments = {moment: _flat_tensors(path, moment, [one[moment] for one in found]) for moment in _MOMENTS}
    return moments, float(counts.pop())


def _step_counts(found: list[Mapping[str, Any]], inner: Any, state: Mapping[str, Any]) -> list[Any]:
    """torch's AdamW counts beside the moments, DeepSpeed's fused one in the group, elastic checkpoints apart."""
    groups = inner.get("param_groups", ()) if isinstance(inner, Mapping) else ()
    counts = [one.get("step") for one in [*found, *groups] if isinstance(one, Mapping)]
    return [*counts, state.get("base_optimizer_state_step")]


def _states_by_group(inner: Any) -> list[Mapping[str, Any]]:
    """The optimizer's state of each flat tensor, in order; an elastic checkpoint lists them, others number them."""
    if isinstance(inner, list):
        return [one for one in inner if isinstance(one, Mapping)]
    numbered = inner.get("state") if isinstance(inner, Mapping) else None
    if not isinstance(numbered, Mapping) or not all(type(number) is int for number in numbered):
        return []
    return [one for number in sorted(numbered) if isinstance(one := numbered[number], Mapping)]


def _flat_tensors(path: Path, what: str, values: Any) -> list[torch.Tensor]:
    if not isinstance(values, Sequence) or not values:
        raise foreign(path, what, values)
    for value in values:
        is_flat = isinstance(value, torch.Tensor) and value.dim() == 1 and value.layout == torch.strided
        if not is_flat or value.dtype not in _FLOATS or value.device.type != "cpu":
            raise foreign(path, what, value)
    return [value.detach() for value in values]


def _paddings(path: Path, values: Any) -> list[list[int]] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(group, list) for group in values):
        raise foreign(path, "param_alignment_paddings", values)
    return [[int(_whole_number(path, "param_alignment_paddings", one)) for one in group] for group in values]


def _loss_scale(scaler: Any) -> dict[str, float]:
    """Fields of a dynamic loss scaler; nothing of a static one."""
    fields = scaler.fields if isinstance(scaler, InertRecord) else {}
    if fields.get("dynamic") is not True:
        return {}
    return {
        name: float(value)
        for name in SCALER_FIELDS
        if isinstance(value := fields.get(name), int | float) and not isinstance(value, bool)
    }


def _whole_number(path: Path, what: str, value: Any) -> int:
    """A number that is stored as one, as an enumeration's value or as a tensor."""
    if isinstance(value, InertRecord) and len(value.arguments) == 1:
        value = value.arguments[0]
    if isinstance(value, torch.Tensor) and value.numel() == 1 and value.device.type == "cpu":
        value = value.item()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _MOST or value != int(value):
        raise foreign(path, what, value)
    return int(value)


def foreign(path: Path, what: str, value: Any) -> ExchangeError:
    """The error of a file that has not what DeepSpeed writes under `what`."""
    found = "nothing" if value is None else type(value).__name__
    return ExchangeError(
        f"{path}: has {found} under {what}: it is not what DeepSpeed's `save_checkpoint` writes: copy it again, or "
        "save again with DeepSpeed 0.19"
    )
