"""Matrices decay, norms do not; the optimizer is AdamW as published and repeats itself bit for bit."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from llama_dist.config import ModelConfig, OptimizerConfig
from llama_dist.model import Llama, initialize_weights
from llama_dist.optim import build_adamw, decay_groups


@pytest.fixture
def model() -> Llama:
    config = ModelConfig(
        vocabulary_size=31,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        feed_forward_size=24,
        norm="layernorm",
        max_sequence_length_tokens=8,
    )
    llama = Llama(config)
    initialize_weights(llama.named_parameters(), config, seed=0)
    return llama


def names_in(group: dict[str, list[nn.Parameter]], model: Llama) -> set[str]:
    members = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in members}


def test_matrices_decay_and_norms_with_their_biases_do_not(model: Llama) -> None:
    decayed, kept = decay_groups(model.named_parameters(), 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    all_names = {name for name, _ in model.named_parameters()}
    norms = {name for name in all_names if "norm" in name}
    assert len(norms) == 6
    assert names_in(kept, model) == norms
    assert names_in(decayed, model) == all_names - norms


def test_a_slice_of_the_model_without_norms_has_one_group(model: Llama) -> None:
    (group,) = decay_groups(model.embed.named_parameters(), 0.1)
    assert group["params"] == [model.embed.weight]


def test_a_matrix_that_zero_3_has_flattened_still_decays() -> None:
    flattened = nn.Parameter(torch.zeros(12))
    flattened.ds_shape = torch.Size((3, 4))  # type: ignore[attr-defined]
    (group,) = decay_groups([("layers.0.attention.wq.weight", flattened)], 0.1)
    assert group["weight_decay"] == 0.1


def updates_by_hand(
    start: torch.Tensor, gradients: list[torch.Tensor], config: OptimizerConfig, decay: float
) -> torch.Tensor:
    """Algorithm 2 of arXiv 1711.05101, in fp64."""
    weight, first, second = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
    for step, gradient in enumerate(gradients, start=1):
        first = config.beta1 * first + (1 - config.beta1) * gradient.double()
        second = config.beta2 * second + (1 - config.beta2) * gradient.double() ** 2
        mean, spread = first / (1 - config.beta1**step), second / (1 - config.beta2**step)
        weight = weight * (1 - config.learning_rate * decay)
        weight = weight - config.learning_rate * mean / (spread.sqrt() + config.epsilon)
    return weight


@pytest.mark.parametrize(("shape", "decay"), [((4, 5), 0.3), ((5,), 0.0)])
def test_updates_are_those_of_the_paper(shape: tuple[int, ...], decay: float) -> None:
    config = OptimizerConfig(learning_rate=0.02, beta1=0.8, beta2=0.9, epsilon=1e-3, weight_decay=0.3)
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(4)]
    parameter = nn.Parameter(start.clone())
    optimizer = build_adamw([("weight", parameter)], config)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(
        parameter.detach().double(), updates_by_hand(start, gradients, config, decay), atol=1e-6, rtol=0
    )


def test_the_fused_kernel_is_used_on_the_cpu_and_repeats_itself_bit_for_bit() -> None:
    def train() -> Iterator[torch.Tensor]:
        parameter = nn.Parameter(torch.randn(257, 33, generator=torch.Generator().manual_seed(2)))
        optimizer = build_adamw([("weight", parameter)], OptimizerConfig())
        assert optimizer.param_groups[0]["fused"] is True
        for seed in range(5):
            parameter.grad = torch.randn(257, 33, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
            yield parameter.detach().clone()

    assert all(torch.equal(one, other) for one, other in zip(train(), train(), strict=True))
