"""Every combination of blocks is a model: it runs, learns, counts right, and names its parameters the same way."""

import itertools
from collections.abc import Callable

import pytest
import torch

from llama_dist.config import ModelConfig
from llama_dist.model import Llama, build_layers, initialize_weights, next_token_loss, tied_logits
from llama_dist.model.activation import ACTIVATIONS

CHOICES = list(
    itertools.product(
        ("silu", "gelu", "relu", "sigmoid"),
        ("rmsnorm", "layernorm"),
        ("multi_head", "grouped_query", "multi_query"),
        (False, True),
    )
)


@pytest.mark.parametrize(("activation", "norm", "attention", "tied"), CHOICES)
def test_every_combination_of_blocks_runs_forward_and_backward(
    make_model: Callable[..., Llama], tokens: torch.Tensor, activation: str, norm: str, attention: str, tied: bool
) -> None:
    model = make_model(activation=activation, norm=norm, attention=attention, tie_embeddings=tied)
    logits = model(tokens)
    assert logits.shape == (3, 17, 101)
    loss = next_token_loss(logits[:, :-1], tokens[:, 1:])
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # relu, and a norm's zero start, still leave some gradient in every tensor
        assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.05 * parameter.grad)
        assert next_token_loss(model(tokens)[:, :-1], tokens[:, 1:]) < loss


@pytest.mark.parametrize(("activation", "norm", "attention", "tied"), CHOICES)
def test_config_counts_the_parameters_of_the_real_module(
    make_config: Callable[..., ModelConfig], activation: str, norm: str, attention: str, tied: bool
) -> None:
    config = make_config(activation=activation, norm=norm, attention=attention, tie_embeddings=tied, head_size=10)
    assert config.num_parameters == sum(parameter.numel() for parameter in Llama(config).parameters())


def test_every_activation_of_the_config_has_a_function() -> None:
    annotation = ModelConfig.model_fields["activation"].annotation
    assert set(ACTIVATIONS) == set(annotation.__args__)


def test_parameter_names_are_the_contract(make_model: Callable[..., Llama]) -> None:
    block = [
        "attention_norm.weight",
        *(f"attention.w{letter}.weight" for letter in "qkvo"),
        "feed_forward_norm.weight",
        *(f"feed_forward.w{number}.weight" for number in (1, 2, 3)),
    ]
    blocks = [f"layers.{index}.{name}" for index in (0, 1) for name in block]
    names = ["embed.weight", *blocks, "norm.weight"]
    assert [name for name, _ in make_model().named_parameters()] == [*names, "head.weight"]
    assert [name for name, _ in make_model(tie_embeddings=True).named_parameters()] == names
    assert list(make_model(tie_embeddings=True).state_dict()) == names


def test_layernorm_adds_a_bias_and_nothing_else_does(make_model: Callable[..., Llama]) -> None:
    biases = {name for name, _ in make_model(norm="layernorm").named_parameters() if name.endswith("bias")}
    assert biases == {
        "norm.bias",
        *(f"layers.{index}.{place}_norm.bias" for index in (0, 1) for place in ("attention", "feed_forward")),
    }


@pytest.mark.parametrize("tied", [False, True])
def test_layers_run_one_by_one_as_a_pipeline_does_equal_the_model(
    make_model: Callable[..., Llama], tokens: torch.Tensor, tied: bool
) -> None:
    model = make_model(tie_embeddings=tied)
    layers = [(name, make()) for name, make in build_layers(model.config)]
    for name, layer in layers:
        owner = "embed" if tied and name == "head" else name
        initialize_weights(((f"{owner}.{part}", weight) for part, weight in layer.named_parameters()), model.config, 0)
    hidden = tokens
    for name, layer in layers:
        hidden = tied_logits(layer, hidden) if tied and name == "head" else layer(hidden)
    assert torch.equal(hidden, model(tokens))


def test_a_later_token_never_changes_earlier_logits(make_model: Callable[..., Llama], tokens: torch.Tensor) -> None:
    model = make_model(attention="grouped_query")
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 101
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    # fp32 kernels may block a row differently; the values it reads are the same
    torch.testing.assert_close(before[:, :9], after[:, :9], atol=1e-6, rtol=0)
    assert ((before[:, 9:] - after[:, 9:]).abs().amax(-1) > 1e-3).all(), "every later position sees the change"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_half_precision_stays_near_fp32(
    make_model: Callable[..., Llama], tokens: torch.Tensor, dtype: torch.dtype, norm: str
) -> None:
    model = make_model(norm=norm)
    with torch.no_grad():
        expected = model(tokens)
        logits = model.to(dtype)(tokens)
    assert logits.dtype == dtype
    # bf16 keeps 8 bits: about 1 % after two blocks; fp16 keeps 11
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_rmsnorm_of_large_bf16_values_is_computed_in_fp32(make_model: Callable[..., Llama]) -> None:
    norm = make_model(norm="rmsnorm").norm.to(torch.bfloat16)
    hidden = (torch.randn(5, 48, generator=torch.Generator().manual_seed(1)) * 300).to(torch.bfloat16)
    wide = hidden.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    # one rounding to bf16, half a unit in the last of 8 bits, and no more
    torch.testing.assert_close(norm(hidden).double(), expected, rtol=2**-8, atol=0)
