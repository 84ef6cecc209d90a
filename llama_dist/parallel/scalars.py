"""The few numbers of an optimizer that are alike on every rank: its step count and the fp16 loss scale."""

from typing import Any

import torch

SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def read_scalars(optimizer: Any) -> dict[str, float]:
    """Return them from a DeepSpeed optimizer or a plain AdamW."""
    steps = [float(state["step"]) for state in _base(optimizer).state.values()]
    values = {"optimizer_steps": max(steps, default=0.0)}
    scaler = _dynamic_scaler(optimizer)
    if scaler is not None:
        values |= {field: float(getattr(scaler, field)) for field in SCALER_FIELDS}
    return values


def write_scalars(optimizer: Any, scalars: dict[str, float]) -> None:
    """Set them. Loss-scale fields that the checkpoint lacks (it was written in bf16) keep their start values."""
    for state in _base(optimizer).state.values():
        state["step"].fill_(scalars["optimizer_steps"])
    scaler = _dynamic_scaler(optimizer)
    if scaler is not None:
        for field in SCALER_FIELDS:
            if field in scalars:
                setattr(scaler, field, type(getattr(scaler, field))(scalars[field]))


def _base(optimizer: Any) -> torch.optim.Optimizer:
    """DeepSpeed's wrappers hold the AdamW they step under `optimizer`; an AdamW has no such attribute."""
    base: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return base


def _dynamic_scaler(optimizer: Any) -> Any | None:
    scaler = getattr(optimizer, "loss_scaler", None)
    return scaler if hasattr(scaler, "cur_scale") and getattr(scaler, "dynamic", False) else None
