"""Keys and values of the tokens already seen, so that generation computes each token once. Training has none.

Legend: B batch, S positions seen, K key/value heads, H head size.
"""

import torch
from torch import Tensor

from llama_dist.config import ModelConfig


class LayerCache:
    """The keys and values of one block, in room allocated once."""

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self._keys = torch.empty(shape, device=device, dtype=dtype)
        self._values = torch.empty(shape, device=device, dtype=dtype)
        self.num_positions = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add [B, K, T, H] each; return all so far, [B, K, S, H] each."""
        start, end = self.num_positions, self.num_positions + keys.shape[2]
        assert end <= self._keys.shape[2], f"cache of {self._keys.shape[2]} positions is asked for {end}"
        self._keys[:, :, start:end] = keys
        self._values[:, :, start:end] = values
        self.num_positions = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class KeyValueCache:
    """One LayerCache for each block of a model, for `batch_size` texts of the same length."""

    def __init__(
        self,
        config: ModelConfig,
        num_positions: int,
        *,
        batch_size: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (batch_size, config.kv_heads, num_positions, config.resolved_head_size)
        place = device or torch.device("cpu")
        self.layers = [LayerCache(shape, place, dtype) for _ in range(config.num_layers)]

    @property
    def num_positions(self) -> int:
        """Positions seen so far."""
        return self.layers[0].num_positions
