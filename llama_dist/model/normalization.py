"""The normalisations that a config may name: statistics in fp32, result in the dtype of the input."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from llama_dist.config import ModelConfig


class RMSNorm(nn.Module):
    """Root mean square normalisation (arXiv 1910.07467): no mean, no bias."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., D] to [..., D]. The kernel squares, averages and scales in fp32 whatever the input."""
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


class LayerNorm(nn.Module):
    """Layer normalisation (arXiv 1607.06450), with weight and bias."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., D] to [..., D]. The kernel keeps mean and variance in fp32 whatever the input."""
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.epsilon)


def build_norm(config: ModelConfig) -> nn.Module:
    """Build the normalisation that `config` names, over the residual stream."""
    kinds: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}
    return kinds[config.norm](config.hidden_size, config.norm_epsilon)
