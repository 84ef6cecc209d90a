"""Parameter names of Hugging Face's LlamaForCausalLM, and ours. The tensors themselves are alike, element for element:
both turn the two halves of a head in RoPE (arXiv 2104.09864), so no weight is permuted.
"""

import re

_OUTER = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_INNER = {
    "attention_norm.weight": "input_layernorm.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
}
_OUTER_BACK = {theirs: ours for ours, theirs in _OUTER.items()}
_INNER_BACK = {theirs: ours for ours, theirs in _INNER.items()}
_OURS = re.compile(r"layers\.(\d+)\.(.+)")
_THEIRS = re.compile(r"model\.layers\.(\d+)\.(.+)")


def to_hf(name: str) -> str | None:
    """Their name of one of our parameters, None for one that their model has not."""
    match = _OURS.fullmatch(name)
    if match:
        inner = _INNER.get(match[2])
        return f"model.layers.{match[1]}.{inner}" if inner else None
    return _OUTER.get(name)


def from_hf(name: str) -> str | None:
    """Our name of one of their parameters, None for one that our model has not."""
    match = _THEIRS.fullmatch(name)
    if match:
        inner = _INNER_BACK.get(match[2])
        return f"layers.{match[1]}.{inner}" if inner else None
    return _OUTER_BACK.get(name)
