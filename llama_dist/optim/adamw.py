"""AdamW (arXiv 1711.05101) over two groups of parameters: those that decay and those that do not."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from llama_dist.config import OptimizerConfig


def decay_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Split by dimensions: matrices and the embedding decay, norms and biases do not. Empty groups are left out."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for _name, parameter in named_parameters:
        (decayed if _num_dimensions(parameter) >= 2 else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_adamw(named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """Build the optimizer at the peak learning rate; `learning_rate` sets each step's own."""
    groups = decay_groups(named_parameters, config.weight_decay)
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=_fused_kernel_fits(groups),
    )


def _num_dimensions(parameter: nn.Parameter) -> int:
    # ZeRO-3 flattens what it cuts; `ds_shape` is then the shape of the whole parameter.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _fused_kernel_fits(groups: list[dict[str, Any]]) -> bool:
    """One pass over memory a step instead of about ten; the kernel exists for CPU and CUDA."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
