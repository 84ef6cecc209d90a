"""Floating-point operations of a training step, by the convention of PaLM (arXiv 2204.02311, appendix B).

Per token `6 N + 12 L d s`: 2 operations forward and 4 backward for each weight in a matrix product, and the two
attention products over s positions. N counts the weights that multiply: all but the lookup table of an untied
embedding (PaLM's was tied). d is num_heads x head_size. The causal half of attention is not taken off, recomputation
for activation checkpointing is not added: the figure is the model's, not the hardware's, exact to its convention.
"""

from llama_dist.config import ModelConfig


def flops_per_token(config: ModelConfig, sequence_length_tokens: int) -> float:
    """Forward and backward operations for one token of a sequence, for MFU."""
    return sum(layer_flops(config, sequence_length_tokens))


def layer_flops(config: ModelConfig, sequence_length_tokens: int) -> list[float]:
    """The same for each entry of `build_layers`, so that a pipeline can be cut evenly: the lookup costs nothing."""
    vocabulary_weights = config.vocabulary_size * config.hidden_size
    norm_weights = config.hidden_size * (1 if config.norm == "rmsnorm" else 2)
    lookups = 1 if config.tie_embeddings else 2
    block_weights = (config.num_parameters - lookups * vocabulary_weights - norm_weights) // config.num_layers
    attention = 12 * config.num_heads * config.resolved_head_size * sequence_length_tokens
    blocks = [float(6 * block_weights + attention)] * config.num_layers
    return [0.0, *blocks, float(6 * norm_weights), float(6 * vocabulary_weights)]
