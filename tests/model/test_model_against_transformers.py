"""The same weights in Hugging Face's LLaMA give the same logits and gradients: names map, no arithmetic differs."""

import re
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_dist.config import ModelConfig
from llama_dist.model import Llama, initialize_weights, next_token_loss

NAMES = {
    r"^embed\.": "model.embed_tokens.",
    r"^norm\.": "model.norm.",
    r"^head\.": "lm_head.",
    r"^layers\.": "model.layers.",
    r"attention_norm": "input_layernorm",
    r"feed_forward_norm": "post_attention_layernorm",
    r"attention\.w([qkvo])": r"self_attn.\1_proj",
    r"feed_forward\.w1": "mlp.gate_proj",
    r"feed_forward\.w2": "mlp.down_proj",
    r"feed_forward\.w3": "mlp.up_proj",
}

CHOICES = [
    pytest.param({"attention": attention, "tie_embeddings": tied}, id=f"{attention}-{'tied' if tied else 'untied'}")
    for attention in ("multi_head", "grouped_query", "multi_query")
    for tied in (False, True)
]


def reference_name(name: str) -> str:
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def build_pair(config: ModelConfig) -> tuple[Llama, LlamaForCausalLM]:
    """Our model, and the reference with our weights; norms too are random, so that a missing scale shows."""
    ours = Llama(config)
    initialize_weights(ours.named_parameters(), config, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.feed_forward_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.resolved_head_size,
            hidden_act=config.activation,
            max_position_embeddings=config.max_sequence_length_tokens,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
        )
    )
    missing, unexpected = theirs.load_state_dict(
        {reference_name(name): weight for name, weight in ours.state_dict().items()}, strict=False
    )
    assert not unexpected
    assert missing == (["lm_head.weight"] if config.tie_embeddings else [])
    theirs.tie_weights()
    return ours, theirs.eval()


def config_of(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "vocabulary_size": 211,
        "hidden_size": 96,
        "num_layers": 3,
        "num_heads": 6,
        "feed_forward_size": 160,
        "max_sequence_length_tokens": 128,
        "init_std": 0.2,  # large, so that logits spread over several units and a small fault is visible
    }
    if changes.get("attention") == "grouped_query":
        values["num_kv_heads"] = 2
    return ModelConfig(**(values | changes))


@pytest.mark.parametrize("changes", CHOICES)
def test_logits_equal_the_reference_in_fp32(changes: dict[str, Any]) -> None:
    ours, theirs = build_pair(config_of(**changes))
    tokens = torch.randint(0, 211, (2, 128), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        logits, expected = ours(tokens), theirs(tokens).logits
    assert expected.std() > 1, "the comparison needs logits that differ from each other"
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"head_size": 32}, id="head-size-of-its-own"),
        pytest.param({"rope_theta": 5e5}, id="rope-theta"),
        pytest.param({"activation": "gelu"}, id="gelu"),
        pytest.param({"activation": "relu"}, id="relu"),
        pytest.param({"norm_epsilon": 1e-2}, id="norm-epsilon"),
    ],
)
def test_every_other_dimension_means_what_it_means_in_the_reference(changes: dict[str, Any]) -> None:
    ours, theirs = build_pair(config_of(**changes))
    tokens = torch.randint(0, 211, (2, 64), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", CHOICES)
def test_loss_and_gradients_equal_the_reference(changes: dict[str, Any]) -> None:
    ours, theirs = build_pair(config_of(**changes))
    tokens = torch.randint(0, 211, (2, 33), generator=torch.Generator().manual_seed(8))
    loss = next_token_loss(ours(tokens[:, :-1]), tokens[:, 1:])
    loss.backward()
    expected = theirs(tokens, labels=tokens).loss
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = reference[reference_name(name)].grad
        # fp32 sums in another order: 1e-4 of the tensor's largest entry.
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4 * float(gradient.abs().max()), rtol=0)
