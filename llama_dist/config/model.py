"""The shape of a LLaMA-style model, and which block it uses in each place."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config import StrictModel

Positive = Annotated[int, Field(ge=1)]


class ModelConfig(StrictModel):
    """Dimensions and choices of blocks. Every combination that can be constructed can be trained."""

    vocabulary_size: Positive
    """Rows of the embedding, in token ids. Must be at least the tokenizer's vocabulary."""

    hidden_size: Positive
    """Width D of the residual stream."""

    num_layers: Positive
    """Number of decoder blocks."""

    num_heads: Positive
    """Number of query heads N."""

    attention: Literal["multi_head", "grouped_query", "multi_query"] = "multi_head"
    """How many key/value heads serve the query heads: one each, one per group, or one for all."""

    num_kv_heads: Positive | None = None
    """Key/value heads K; needed for `grouped_query` alone, where it divides `num_heads`."""

    head_size: Positive | None = None
    """Width H of one head; `hidden_size / num_heads` unless given. Even, since RoPE turns pairs."""

    feed_forward_size: Positive
    """Width of the gated feed-forward layer (the I of w1, w3 [I, D] and w2 [D, I])."""

    activation: Literal["silu", "gelu", "relu", "sigmoid"] = "silu"
    """Gate of the feed-forward layer; silu makes it SwiGLU (arXiv 2002.05202)."""

    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation before each block and before the head."""

    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the variance before the square root."""

    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary position frequencies (arXiv 2104.09864 sec. 3.4.2)."""

    max_sequence_length_tokens: Positive = 2048
    """Longest sequence the model is used with, in tokens."""

    tie_embeddings: bool = False
    """Whether the head uses the embedding's weight."""

    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights; projections back into the residual stream use init_std / sqrt(2 L)."""

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, resolved."""
        if self.attention == "multi_query":
            return 1
        return self.num_kv_heads or self.num_heads

    @property
    def resolved_head_size(self) -> int:
        """Width of one head, resolved."""
        return self.head_size or self.hidden_size // self.num_heads

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.head_size is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}: "
                "change one, or give head_size"
            )
        if self.resolved_head_size % 2:
            raise ValueError(f"head size {self.resolved_head_size} is odd, but RoPE turns pairs: use an even one")
        if self.attention == "grouped_query":
            if self.num_kv_heads is None or self.num_heads % self.num_kv_heads:
                raise ValueError(
                    f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}: "
                    "grouped_query needs a divisor"
                )
        elif self.num_kv_heads not in (None, self.kv_heads if self.attention == "multi_query" else self.num_heads):
            raise ValueError(
                f"num_kv_heads {self.num_kv_heads} contradicts attention `{self.attention}`: "
                "leave it out, or use grouped_query"
            )
        return self

    @property
    def num_parameters(self) -> int:
        """Exact number of trained parameters, a tied head counted once."""
        query_size = self.num_heads * self.resolved_head_size
        kv_size = self.kv_heads * self.resolved_head_size
        attention = self.hidden_size * (2 * query_size + 2 * kv_size)
        feed_forward = 3 * self.hidden_size * self.feed_forward_size
        norm = self.hidden_size * (1 if self.norm == "rmsnorm" else 2)
        embeddings = self.vocabulary_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * (attention + feed_forward + 2 * norm) + norm
