"""One decoder block: attention, then feed-forward, each normalised before and added to the residual stream."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llama_dist.config import ModelConfig
from llama_dist.model.attention import Attention
from llama_dist.model.documents import DocumentLayout
from llama_dist.model.feed_forward import FeedForward
from llama_dist.model.key_value_cache import LayerCache
from llama_dist.model.normalization import build_norm


class Block(nn.Module):
    """Pre-norm block of LLaMA (arXiv 2302.13971 sec. 2.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, hidden: Tensor, cache: LayerCache | None = None, documents: DocumentLayout | None = None
    ) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        hidden = hidden + self.attention(self.attention_norm(hidden), cache, documents)
        output: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return output


def run_block(block: nn.Module, hidden: Tensor, documents: DocumentLayout | None, *, recompute: bool) -> Tensor:
    """Run one block of a training step; with `recompute` only its input is kept, and it runs again in backward."""
    if recompute and torch.is_grad_enabled():
        output: Tensor = checkpoint(block, hidden, None, documents, use_reentrant=False)
    else:
        output = block(hidden, None, documents)
    return output
