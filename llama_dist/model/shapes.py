"""What parameters a model of some config has, without their memory."""

import torch

from llama_dist.config import ModelConfig
from llama_dist.model.llama import Llama


def shapes_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, by its name; a tied one once."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in Llama(model).named_parameters()}
