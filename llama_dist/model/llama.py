"""The model as an ordered list of layers, and the module that runs them in one loop.

A pipeline stage is a slice of the same list. Weights are set by `initialization.py`; cutting is an engine's work.
Legend: B batch, T positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from llama_dist.config import ModelConfig
from llama_dist.model.block import Block, run_block
from llama_dist.model.documents import lay_out_documents
from llama_dist.model.key_value_cache import KeyValueCache
from llama_dist.model.normalization import build_norm


class Embedding(nn.Module):
    """Token ids, int64 [B, T], to vectors [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocabulary_size, config.hidden_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up [B, T] in [V, D]."""
        return functional.embedding(tokens, self.weight)


class Head(nn.Module):
    """Vectors [B, T, D] to logits [B, T, V]; its weight has the embedding's shape, so that they can be tied."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocabulary_size, config.hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Score each vector against each token."""
        return functional.linear(hidden, self.weight)


def tied_logits(owner: nn.Module, hidden: Tensor) -> Tensor:
    """Compute logits [B, T, V] with the `weight` [V, D] that `owner` holds: the embedding, or a pipeline's copy."""
    weight = owner.weight
    assert isinstance(weight, Tensor)
    return functional.linear(hidden, weight)


def build_layers(config: ModelConfig) -> list[tuple[str, Callable[[], nn.Module]]]:
    """Name and constructor of each layer, in the order of the forward pass.

    The names, a dot, and the names inside a layer make the names of the parameters. With tied embeddings `head` is
    listed too: its weight is then `embed.weight` under another owner, to be used through `tied_logits`.
    """
    return [
        ("embed", partial(Embedding, config)),
        *((f"layers.{index}", partial(Block, config)) for index in range(config.num_layers)),
        ("norm", partial(build_norm, config)),
        ("head", partial(Head, config)),
    ]


class Llama(nn.Module):
    """The whole model on one device. Its weights are unset until `initialize_weights` or a checkpoint fills them.

    With `recompute_blocks` a training step keeps only the input of each block and computes the rest again in the
    backward pass (arXiv 1604.06174): a third more arithmetic for a fraction of the memory.
    """

    def __init__(self, config: ModelConfig, *, recompute_blocks: bool = False) -> None:
        super().__init__()
        self.config = config
        self.recompute_blocks = recompute_blocks
        (_, embed), *blocks, (_, norm), (_, head) = build_layers(config)
        self.embed = embed()
        self.layers = nn.ModuleList(block() for _, block in blocks)
        self.norm = norm()
        self.head = None if config.tie_embeddings else head()

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None, positions: Tensor | None = None) -> Tensor:
        """Map token ids, int64 [B, T], to logits [B, T, V]. With a cache, they continue what it holds.

        With `positions`, int64 [B, T], every 0 begins a document that attention does not leave.
        """
        documents = None if positions is None else lay_out_documents(positions, self.config)
        hidden = self.embed(tokens)
        for index, block in enumerate(self.layers):
            if cache is not None:
                hidden = block(hidden, cache.layers[index], documents)
            else:
                hidden = run_block(block, hidden, documents, recompute=self.recompute_blocks)
        hidden = self.norm(hidden)
        logits: Tensor = self.head(hidden) if self.head else tied_logits(self.embed, hidden)
        return logits
