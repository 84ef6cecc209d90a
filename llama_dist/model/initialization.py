"""Initial weights, each a pure function of (seed, parameter name): no cut, rank or order of building changes them."""

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from llama_dist.config import ModelConfig

_RESIDUAL_PROJECTIONS = ("attention.wo.weight", "feed_forward.w2.weight")


def initialize_weights(named_parameters: Iterable[tuple[str, nn.Parameter]], config: ModelConfig, seed: int) -> None:
    """Fill each parameter in place, whatever its dtype and device. Names are those of `Llama.named_parameters`."""
    with torch.no_grad():
        for name, parameter in named_parameters:
            parameter.copy_(initial_weight(name, tuple(parameter.shape), config, seed))


def initial_weight(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """Return the fp32 initial value of one parameter, on the CPU: the same numbers for every device.

    Matrices are N(0, init_std), those that write into the residual stream scaled by 1 / sqrt(2 L) (GPT-2);
    norms start as the identity.
    """
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("norm.bias"):
        return torch.zeros(shape)
    std = config.init_std
    if name.endswith(_RESIDUAL_PROJECTIONS):
        std /= math.sqrt(2 * config.num_layers)
    generator = torch.Generator().manual_seed(_name_seed(name, seed))
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _name_seed(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
