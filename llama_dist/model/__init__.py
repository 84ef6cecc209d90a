"""The LLaMA model: maths on tensors. Knows no rank, no engine, no environment."""

from llama_dist.model.flops import flops_per_token, layer_flops
from llama_dist.model.initialization import initial_weight, initialize_weights
from llama_dist.model.key_value_cache import KeyValueCache
from llama_dist.model.llama import Llama, build_layers, tied_logits
from llama_dist.model.loss import next_token_loss

__all__ = [
    "KeyValueCache",
    "Llama",
    "build_layers",
    "flops_per_token",
    "initial_weight",
    "initialize_weights",
    "layer_flops",
    "next_token_loss",
    "tied_logits",
]
