"""Self-attention with rotary positions: multi-head, grouped-query (arXiv 2305.13245) or multi-query (1911.02150).

The three are one module: they differ in the number of key/value heads alone, `ModelConfig.kv_heads`.
Legend: B batch, T positions, D hidden size, N query heads, K key/value heads, H head size.
"""

from torch import Tensor, nn

from llama_dist.config import ModelConfig
from llama_dist.model.attention_product import causal_attention, isolated_attention
from llama_dist.model.documents import DocumentLayout
from llama_dist.model.key_value_cache import LayerCache
from llama_dist.model.rotary import rotary_tables, rotate


class Attention(nn.Module):
    """Projections wq [N H, D], wk and wv [K H, D], wo [D, N H], without biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_size = config.resolved_head_size
        self.rope_theta = config.rope_theta
        self.max_positions = config.max_sequence_length_tokens
        query_size, kv_size = config.num_heads * self.head_size, config.kv_heads * self.head_size
        self.wq = nn.Linear(config.hidden_size, query_size, bias=False)
        self.wk = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.wv = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.wo = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, cache: LayerCache | None = None, documents: DocumentLayout | None = None
    ) -> Tensor:
        """Map [B, T, D] to [B, T, D]. With a cache, `hidden` are the T positions after those it holds.

        With `documents` each position sees those before it in its own document alone.
        """
        queries, keys, values = self._split(self.wq(hidden)), self._split(self.wk(hidden)), self._split(self.wv(hidden))
        if documents is None:
            mixed = self._attend(queries, keys, values, cache)
        else:
            assert cache is None, "documents are isolated in training alone"
            queries = rotate(queries, documents.cosines, documents.sines)
            keys = rotate(keys, documents.cosines, documents.sines)
            mixed = isolated_attention(queries, keys, values, documents)
        projected: Tensor = self.wo(mixed.flatten(2))
        return projected

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, cache: LayerCache | None) -> Tensor:
        """Attend over whole rows, and over what `cache` holds before them; heads and result are [B, T, N, H]."""
        start = cache.num_positions if cache is not None else 0
        cosines, sines = self._tables(start, start + queries.shape[1], queries)
        queries = rotate(queries, cosines, sines).transpose(1, 2)
        keys = rotate(keys, cosines, sines).transpose(1, 2)
        values = values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.append(keys, values)
        return causal_attention(queries, keys, values).transpose(1, 2)

    def _split(self, projected: Tensor) -> Tensor:
        """Cut [B, T, N H] into heads [B, T, N, H]."""
        return projected.view(*projected.shape[:-1], -1, self.head_size)

    def _tables(self, start: int, end: int, like: Tensor) -> tuple[Tensor, Tensor]:
        assert end <= self.max_positions, f"position {end} is past the model's longest, {self.max_positions}"
        cosines, sines = rotary_tables(self.head_size, self.rope_theta, self.max_positions, like.device)
        return cosines[start:end], sines[start:end]
