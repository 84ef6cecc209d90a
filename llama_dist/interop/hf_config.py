"""Hugging Face's config.json of a LLaMA, and our `model` section. Pure."""

from collections.abc import Mapping
from typing import Any

from llama_dist.config import ModelConfig
from llama_dist.interop.errors import ExchangeError

_DEFAULT_THETA = 10000.0


def hf_config(model: ModelConfig, *, dtype: str, bos_id: int | None, eos_id: int | None) -> dict[str, Any]:
    """Return the config of the model as LlamaForCausalLM. Raises ExchangeError for a block that it has not."""
    if model.norm != "rmsnorm":
        raise ExchangeError(
            f"model.norm is {model.norm}: Hugging Face's LLaMA has rmsnorm alone: it cannot be exported"
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.feed_forward_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.resolved_head_size,
        "hidden_act": model.activation,
        "max_position_embeddings": model.max_sequence_length_tokens,
        "rms_norm_eps": model.norm_epsilon,
        # The first is read by newer versions of transformers, the second by older ones.
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": model.init_std,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def check_fits(theirs: Mapping[str, Any], model: ModelConfig, place: str) -> None:
    """Raise ExchangeError, with all that differs, unless a config.json describes the run's model."""
    wanted = {
        "vocabulary_size": theirs.get("vocab_size"),
        "hidden_size": theirs.get("hidden_size"),
        "feed_forward_size": theirs.get("intermediate_size"),
        "num_layers": theirs.get("num_hidden_layers"),
        "num_heads": theirs.get("num_attention_heads"),
        "kv_heads": theirs.get("num_key_value_heads") or theirs.get("num_attention_heads"),
        "resolved_head_size": theirs.get("head_dim") or _head_size(theirs),
        "activation": theirs.get("hidden_act", "silu"),
        "norm": "rmsnorm",
        "norm_epsilon": theirs.get("rms_norm_eps", 1e-6),
        "rope_theta": _rope(theirs).get("rope_theta", theirs.get("rope_theta", _DEFAULT_THETA)),
        "tie_embeddings": bool(theirs.get("tie_word_embeddings", False)),
    }
    faults = _refused(theirs)
    faults += [
        f"model.{_OURS.get(field, field)} is {getattr(model, field)!r} in the run, {value!r} there"
        for field, value in wanted.items()
        if getattr(model, field) != value
    ]
    if faults:
        raise ExchangeError(f"{place} does not fit the run's model:\n  " + "\n  ".join(faults))


_OURS = {"kv_heads": "num_kv_heads", "resolved_head_size": "head_size"}


def _refused(theirs: Mapping[str, Any]) -> list[str]:
    """What our model has not."""
    faults = []
    if theirs.get("model_type") != "llama":
        faults.append(f"model_type is {theirs.get('model_type')!r}: only llama is read")
    faults += [f"{key} is true: our layers have no biases" for key in ("attention_bias", "mlp_bias") if theirs.get(key)]
    rope_type = _rope(theirs).get("rope_type") or _rope(theirs).get("type") or "default"
    if rope_type != "default":
        faults.append(f"RoPE is scaled by {rope_type!r}: only plain RoPE is read")
    if theirs.get("quantization_config"):
        faults.append("the weights are quantized: export them in full first")
    return faults


def _rope(theirs: Mapping[str, Any]) -> Mapping[str, Any]:
    found = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    return found if isinstance(found, Mapping) else {}


def _head_size(theirs: Mapping[str, Any]) -> int | None:
    hidden, heads = theirs.get("hidden_size"), theirs.get("num_attention_heads")
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None
