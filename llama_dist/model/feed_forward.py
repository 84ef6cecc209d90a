"""The gated feed-forward layer (arXiv 2002.05202): `w2(activation(w1 x) * w3 x)`.

Legend: B batch, T positions, D hidden size, I feed-forward size.
"""

from torch import Tensor, nn

from llama_dist.config import ModelConfig
from llama_dist.model.activation import ACTIVATIONS


class FeedForward(nn.Module):
    """Gate w1 [I, D], up w3 [I, D], down w2 [D, I], without biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.w1 = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)
        self.w2 = nn.Linear(config.feed_forward_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.feed_forward_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        down: Tensor = self.w2(self.activation(self.w1(hidden)) * self.w3(hidden))
        return down
