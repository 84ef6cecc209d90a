"""Builds the engine that a run asks for: model, initial weights, optimizer, DeepSpeed. Collective."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import logger as deepspeed_logger

from llama_dist.config import ConfigError, RunConfig
from llama_dist.model.initialization import initialize_weights
from llama_dist.model.llama import Llama
from llama_dist.parallel.deepspeed_config import deepspeed_config, effective_zero_stage
from llama_dist.parallel.engine import Engine
from llama_dist.parallel.grid import Grid
from llama_dist.parallel.optimizer_state import FullyPartitionedState, PartitionedState, ReplicatedState, StateAccess
from llama_dist.parallel.pipeline_engine import LlamaPipeline, PipelineEngine
from llama_dist.parallel.zero_engine import ZeroEngine

NamedParameters = Iterable[tuple[str, torch.nn.Parameter]]
BuildOptimizer = Callable[[NamedParameters], torch.optim.Optimizer]


def join_deepspeed() -> None:
    """Let DeepSpeed use the process group that exists already. Collective; call once, before `build_engine`."""
    deepspeed_logger.setLevel(logging.WARNING)
    # DeepSpeed would compile a CPU op at first use, about a minute, that only its inference calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with _stdout_to_stderr():
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), dist_init_required=False)


def build_engine(config: RunConfig, grid: Grid, build_optimizer: BuildOptimizer) -> Engine:
    """Return the engine with its seeded initial weights. Collective: every rank calls it with the same config.

    Raises ConfigError if the device lacks the precision.
    """
    if config.train.precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise ConfigError(
            f"train.precision is fp16, which this device ({get_accelerator().device_name()}) cannot: use bf16 or fp32"
        )
    with _stdout_to_stderr():
        if grid.pp_size > 1:
            return _build_pipeline(config, grid, build_optimizer)
        return _build_zero(config, grid, build_optimizer)


def _build_pipeline(config: RunConfig, grid: Grid, build_optimizer: BuildOptimizer) -> Engine:
    module = LlamaPipeline(config)
    parameters = module.topology_free_names()
    initialize_weights(parameters.items(), config.model, config.train.seed)
    engine = _initialize(module, build_optimizer(parameters.items()), config, grid)
    return PipelineEngine(engine, PartitionedState(engine.optimizer, parameters), grid, config)


def _build_zero(config: RunConfig, grid: Grid, build_optimizer: BuildOptimizer) -> Engine:
    module = Llama(config.model, recompute_blocks=config.train.activation_checkpointing)
    parameters = dict(module.named_parameters())
    initialize_weights(parameters.items(), config.model, config.train.seed)
    engine = _initialize(module, build_optimizer(parameters.items()), config, grid)
    return ZeroEngine(engine, _state_access(engine.optimizer, parameters, config, grid), grid, config)


def _state_access(
    optimizer: Any, parameters: dict[str, torch.nn.Parameter], config: RunConfig, grid: Grid
) -> StateAccess:
    stage = effective_zero_stage(config)
    if stage == 0:
        return ReplicatedState(optimizer, parameters, grid.dp_rank, grid.dp_size)
    if stage == 3:
        return FullyPartitionedState(optimizer, parameters, grid.dp_rank)
    return PartitionedState(optimizer, parameters)


def _initialize(module: torch.nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig, grid: Grid) -> Any:
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=deepspeed_config(config, grid))
    return engine


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """DeepSpeed prints while it builds; stdout belongs to the run's own lines."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
