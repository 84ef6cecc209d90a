"""Small models that the model tests share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llama_dist.config import ModelConfig
from llama_dist.model import Llama, initialize_weights


@pytest.fixture
def make_config() -> Callable[..., ModelConfig]:
    """Return a builder of two-block models in which no two dimensions are equal by chance."""

    def build(**changes: Any) -> ModelConfig:
        values: dict[str, Any] = {
            "vocabulary_size": 101,
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 6,
            "feed_forward_size": 80,
            "max_sequence_length_tokens": 32,
            "init_std": 0.1,
        }
        if changes.get("attention") == "grouped_query":
            values["num_kv_heads"] = 2
        return ModelConfig(**(values | changes))

    return build


@pytest.fixture
def make_model(make_config: Callable[..., ModelConfig]) -> Callable[..., Llama]:
    """Return a builder of initialised models."""

    def build(seed: int = 0, **changes: Any) -> Llama:
        model = Llama(make_config(**changes))
        initialize_weights(model.named_parameters(), model.config, seed)
        return model

    return build


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids int64 [3, 17] of the small models' vocabulary."""
    return torch.randint(0, 101, (3, 17), generator=torch.Generator().manual_seed(5))
