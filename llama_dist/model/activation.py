"""The gate functions that a config may name. Elementwise; the gated layer itself is `feed_forward.py`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,  # SwiGLU, the choice of LLaMA
    "gelu": functional.gelu,  # GEGLU, with the exact error function
    "relu": functional.relu,  # ReGLU
    "sigmoid": torch.sigmoid,  # GLU as first published, arXiv 1612.08083
}
"""Keys are the values of `ModelConfig.activation`; the variants are compared in arXiv 2002.05202."""
