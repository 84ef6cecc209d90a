"""The loss is the mean negative log likelihood; the FLOPs are PaLM's formula, spread over the layers."""

import math
from collections.abc import Callable

import pytest
import torch

from llama_dist.config import ModelConfig
from llama_dist.model import build_layers, flops_per_token, layer_flops, next_token_loss


def test_loss_is_the_mean_of_minus_log_probabilities_in_nats() -> None:
    logits = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(1))
    expected = -sum(
        math.log(math.exp(logits[b, t, labels[b, t]]) / sum(math.exp(value) for value in logits[b, t]))
        for b in range(2)
        for t in range(5)
    )
    assert float(next_token_loss(logits, labels)) == pytest.approx(expected / 10, abs=1e-5)


def test_ignored_labels_leave_the_mean_and_the_gradient() -> None:
    logits = torch.randn(1, 4, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[3, -100, 5, -100]])
    loss = next_token_loss(logits, labels)
    torch.testing.assert_close(loss, next_token_loss(logits[:, ::2], labels[:, ::2]))
    loss.backward()
    assert logits.grad is not None and (logits.grad[:, 1::2] == 0).all() and (logits.grad[:, ::2] != 0).any()


def test_losses_by_one_divisor_add_up_to_the_mean_however_they_are_cut() -> None:
    logits = torch.randn(4, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(1))
    labels[0, 1:] = labels[2] = -100
    whole = next_token_loss(logits, labels)
    parts = [next_token_loss(logits[row : row + 1], labels[row : row + 1], torch.tensor(13 / 4)) for row in range(4)]
    assert int((labels != -100).sum()) == 13
    assert float(parts[2]) == 0.0, "no label, no loss"
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_loss_of_bf16_logits_is_computed_in_fp32() -> None:
    logits = torch.randn(2, 64, 500, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    labels = torch.randint(0, 500, (2, 64), generator=torch.Generator().manual_seed(1))
    loss = next_token_loss(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), next_token_loss(logits.double(), labels).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["multi_head", "grouped_query", "multi_query"])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("tied", [False, True])
def test_flops_are_six_per_multiplying_weight_and_twelve_per_attended_position(
    make_config: Callable[..., ModelConfig], attention: str, norm: str, tied: bool
) -> None:
    config = make_config(attention=attention, norm=norm, tie_embeddings=tied, head_size=10)
    lookup = 0 if tied else config.vocabulary_size * config.hidden_size
    expected = 6 * (config.num_parameters - lookup) + 12 * config.num_layers * (6 * 10) * 512
    assert flops_per_token(config, 512) == expected


def test_each_layer_has_its_share_and_the_lookup_has_none(make_config: Callable[..., ModelConfig]) -> None:
    config = make_config()
    names = [name for name, _ in build_layers(config)]
    shares = dict(zip(names, layer_flops(config, 64), strict=True))
    assert shares["embed"] == 0
    assert shares["head"] == 6 * 101 * 48
    block = sum(parameter.numel() for parameter in build_layers(config)[1][1]().parameters())
    assert shares["layers.0"] == shares["layers.1"] == 6 * block + 12 * 48 * 64


def test_seven_billion_model_costs_what_the_papers_say() -> None:
    config = ModelConfig(
        vocabulary_size=32000,
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        feed_forward_size=11008,
        max_sequence_length_tokens=4096,
    )
    # 6 x 6.607e9 without the lookup table, and 12 x 32 x 4096 x 4096 of attention
    assert flops_per_token(config, 4096) == pytest.approx(6 * 6.607e9 + 6.442e9, rel=1e-3)
