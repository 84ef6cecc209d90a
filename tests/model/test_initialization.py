"""Initial weights are a function of seed and name: nothing about where or when they are made."""

import math
from collections.abc import Callable

import torch

from llama_dist.config import ModelConfig
from llama_dist.model import Llama, initial_weight, initialize_weights


def test_order_of_parameters_and_state_of_the_global_generator_change_nothing(
    make_model: Callable[..., Llama],
) -> None:
    first = make_model()
    torch.manual_seed(999)
    second = Llama(first.config)
    initialize_weights(reversed(list(second.named_parameters())), first.config, seed=0)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_no_two_matrices_start_alike_and_another_seed_changes_each(make_model: Callable[..., Llama]) -> None:
    one, other = (dict(make_model(seed=seed).named_parameters()) for seed in (0, 1))
    matrices = [name for name, weight in one.items() if weight.ndim > 1]
    starts = {tuple(one[name].flatten()[:8].tolist()) for name in matrices}
    assert len(starts) == len(matrices)
    assert not any(torch.equal(one[name], other[name]) for name in matrices)


def test_spread_is_the_one_of_the_config_and_residual_projections_are_narrower(
    make_config: Callable[..., ModelConfig],
) -> None:
    config = make_config(num_layers=8, init_std=0.02)
    for name, std in (("attention.wq", 0.02), ("feed_forward.w1", 0.02), ("attention.wo", 0.02 / math.sqrt(16))):
        weight = initial_weight(f"layers.3.{name}.weight", (400, 500), config, 7)
        # 200,000 draws: the deviation of the sample's own is 0.16 %
        assert abs(float(weight.std()) / std - 1) < 0.01
        assert abs(float(weight.mean())) < 0.01 * std
    narrow = initial_weight("layers.3.feed_forward.w2.weight", (400, 500), config, 7)
    assert abs(float(narrow.std()) / (0.02 / 4) - 1) < 0.01


def test_norms_start_as_the_identity(make_model: Callable[..., Llama]) -> None:
    for name, parameter in make_model(norm="layernorm").named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name


def test_values_are_frozen_across_versions(make_config: Callable[..., ModelConfig]) -> None:
    weight = initial_weight("layers.0.attention.wq.weight", (4, 4), make_config(init_std=1.0), 42)
    frozen = torch.tensor([0.4536462, 0.5260952, 2.5967908, 0.1044973])
    # processors differ in the last bits of the logarithm inside the normal draw
    torch.testing.assert_close(weight[0], frozen, atol=1e-4, rtol=0)
