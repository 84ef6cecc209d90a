"""The arithmetic of ranks, and what DeepSpeed is told."""

import itertools
from pathlib import Path

import pytest

from data_pipeline.config import parse_config, read_yaml
from llama_dist.config import ModelConfig, parse_run_config
from llama_dist.model.flops import layer_flops
from llama_dist.parallel.deepspeed_config import deepspeed_config, effective_zero_stage, num_micro_batches
from llama_dist.parallel.grid import Grid
from llama_dist.parallel.pipeline_engine import even_cut

ROOT = Path(__file__).parents[2]


def run_config(precision="bf16", zero=1, pp=1):
    return parse_run_config(
        {
            "name": "x",
            "model": {"vocabulary_size": 8, "hidden_size": 8, "num_layers": 4, "num_heads": 2, "feed_forward_size": 8},
            "data": {"sources": [{"path": "x"}]},
            "batch": {"global_batch_sequences": 24, "micro_batch_sequences": 2},
            "train": {"num_steps": 1, "precision": precision},
            "parallel": {"zero_stage": zero, "pipeline_stages": pp},
        },
        where="test",
    )


@pytest.mark.parametrize(("world_size", "pp_size"), [(1, 1), (4, 1), (4, 2), (12, 3)])
def test_every_coordinate_belongs_to_one_rank(world_size, pp_size):
    grids = [Grid(rank, world_size, pp_size) for rank in range(world_size)]
    coordinates = {(grid.pp_stage, grid.dp_rank) for grid in grids}
    assert coordinates == set(itertools.product(range(pp_size), range(world_size // pp_size)))
    assert sum(grid.is_first_stage for grid in grids) == sum(grid.is_last_stage for grid in grids) == grids[0].dp_size


def test_accumulation_keeps_the_global_batch_at_every_topology():
    for world_size, pp in ((1, 1), (2, 1), (2, 2), (4, 2), (6, 1)):
        config, grid = run_config(pp=pp), Grid(0, world_size, pp)
        told = deepspeed_config(config, grid)
        assert num_micro_batches(config, grid) * 2 * grid.dp_size == 24
        assert told["gradient_accumulation_steps"] * told["train_micro_batch_size_per_gpu"] * grid.dp_size == 24


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_accumulates_and_reduces_in_fp32(precision):
    told = deepspeed_config(run_config(precision), Grid(0, 2, 1))
    assert told["data_types"] == {"grad_accum_dtype": "fp32"}
    assert told["communication_data_type"] == "fp32"
    assert told[precision]["enabled"]


@pytest.mark.parametrize(
    ("precision", "zero", "pp", "stage"),
    [("fp32", 0, 1, 0), ("bf16", 0, 1, 1), ("fp16", 0, 1, 1), ("fp32", 0, 2, 1), ("bf16", 3, 1, 3)],
)
def test_stage_0_runs_only_where_deepspeed_computes_it_right(precision, zero, pp, stage):
    assert effective_zero_stage(run_config(precision, zero, pp)) == stage


@pytest.mark.parametrize("config_file", sorted((ROOT / "configs" / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_stage_has_matrices_and_norms_and_the_cut_is_the_best_there_is(config_file):
    model = parse_config(ModelConfig, read_yaml(config_file), where=str(config_file))
    weights = [int(flops) for flops in layer_flops(model, 2048)]
    for num_stages in {1, 2, 3, 4, 8, min(16, model.num_layers)} & set(range(1, model.num_layers + 1)):
        bounds = even_cut(weights, num_stages)
        assert len(bounds) == num_stages + 1 and bounds[0] == 0 and bounds[-1] == len(weights)
        assert all(start < end for start, end in itertools.pairwise(bounds))
        assert bounds[1] >= 2, "the embedding has a block beside it"
        assert bounds[-2] <= len(weights) - 2, "the head has the norm beside it"
        heaviest = max(sum(weights[start:end]) for start, end in itertools.pairwise(bounds))
        assert heaviest >= sum(weights) / num_stages
        even = -(-sum(weights) // num_stages)
        assert heaviest <= even + max(*weights[1:-2], sum(weights[-2:]))


def test_a_small_cut_is_the_best_of_all_cuts():
    weights = [0, 5, 5, 5, 5, 1, 14]
    units = [5, 5, 5, 5, 15]
    for num_stages in (1, 2, 3, 4, 5):
        best = min(
            max(sum(units[start:end]) for start, end in itertools.pairwise((0, *inner, 5)))
            for inner in itertools.combinations(range(1, 5), num_stages - 1)
        )
        bounds = even_cut(weights, num_stages)
        assert max(sum(weights[start:end]) for start, end in itertools.pairwise(bounds)) == best
