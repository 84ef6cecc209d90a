"""The files of `configs/model/` have the published sizes, exactly."""

from pathlib import Path

import pytest
import torch

from data_pipeline.config import parse_config, read_yaml
from llama_dist.config import ModelConfig
from llama_dist.model import Llama

DIRECTORY = Path(__file__).parents[2] / "configs" / "model"

NUM_PARAMETERS = {
    "tiny": 3_344_064,
    "125m": 134_105_856,
    "1b": 1_100_048_384,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
}


def load(name: str) -> ModelConfig:
    path = DIRECTORY / f"{name}.yaml"
    return parse_config(ModelConfig, read_yaml(path), where=str(path))


def test_every_model_file_is_listed_here() -> None:
    assert {path.stem for path in DIRECTORY.iterdir()} == set(NUM_PARAMETERS)


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_model_file_has_the_published_number_of_parameters(name: str) -> None:
    assert load(name).num_parameters == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_the_module_itself_has_that_many(name: str) -> None:
    with torch.device("meta"):  # shapes without memory
        model = Llama(load(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_the_comment_on_top_states_the_number(name: str) -> None:
    comment = [line for line in (DIRECTORY / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert f"{NUM_PARAMETERS[name]:,} parameters" in " ".join(comment)


@pytest.mark.parametrize(
    ("name", "rope_theta", "longest"),
    [("llama2-7b", 1e4, 4096), ("llama2-70b", 1e4, 4096), ("llama3-8b", 5e5, 8192), ("llama3-405b", 5e5, 8192)],
)
def test_positions_are_those_of_the_family(name: str, rope_theta: float, longest: int) -> None:
    config = load(name)
    assert (config.rope_theta, config.max_sequence_length_tokens) == (rope_theta, longest)
    assert config.resolved_head_size == 128
