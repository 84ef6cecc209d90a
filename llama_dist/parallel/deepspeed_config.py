"""From our config to DeepSpeed's: a pure function, so that every choice made for the user is in one place."""

from typing import Any

import torch

from llama_dist.config import RunConfig
from llama_dist.parallel.grid import Grid

# Elements reduced or gathered in one collective. DeepSpeed's default of 5e8 allocates 2 GB of fp32 at once;
# 5e7 (200 MB) still keeps the links busy.
_LARGEST_BUCKET_ELEMENTS = 50_000_000


def effective_zero_stage(config: RunConfig) -> int:
    """Return the ZeRO stage that runs; 0 becomes 1 except in fp32 without a pipeline.

    DeepSpeed's own stage 0 keeps no fp32 accumulation in half precision (its losses drift), and under a pipeline
    it reports no gradient norm. Stage 1 computes the same update and needs less memory.
    """
    stage = config.parallel.zero_stage
    if stage == 0 and (config.train.precision != "fp32" or config.parallel.pipeline_stages > 1):
        return 1
    return stage


def num_micro_batches(config: RunConfig, grid: Grid) -> int:
    """Micro-batches that each replica accumulates for one optimizer step."""
    return config.batch.global_batch_sequences // (config.batch.micro_batch_sequences * grid.dp_size)


def deepspeed_config(config: RunConfig, grid: Grid) -> dict[str, Any]:
    """DeepSpeed's configuration of this run on this grid. No learning rate: the trainer sets it at each step."""
    stage = effective_zero_stage(config)
    half = config.train.precision != "fp32"
    bucket = min(_LARGEST_BUCKET_ELEMENTS, config.model.num_parameters)
    values: dict[str, Any] = {
        "train_batch_size": config.batch.global_batch_sequences,
        "train_micro_batch_size_per_gpu": config.batch.micro_batch_sequences,
        "gradient_accumulation_steps": num_micro_batches(config, grid),
        # In fp32 at stage 0 the engine clips by itself, since DeepSpeed would not tell the norm.
        "gradient_clipping": config.optimizer.gradient_clip_norm if stage else 0.0,
        "zero_optimization": {
            "stage": stage,
            # With overlap DeepSpeed synchronises the device after each backward: slower than none at small scale.
            "overlap_comm": False,
            # Left on, it reorders parameters between partitions, which the checkpoint's ranges do not expect.
            "round_robin_gradients": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    if config.parallel.offload_optimizer:
        values["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        # Its own CPU optimizer is compiled at first use, and keeps moments that a checkpoint would have to know.
        values["zero_force_ds_cpu_optimizer"] = False
    if half:
        # Without it gradients accumulate in the model's own type and lose their small parts (gpt-neox PR 1032).
        values["data_types"] = {"grad_accum_dtype": "fp32"}
        values["communication_data_type"] = "fp32"
    if config.train.precision == "bf16":
        values["bf16"] = {"enabled": True}
    if config.train.precision == "fp16":
        values["fp16"] = {
            "enabled": True,
            "initial_scale_power": config.train.initial_loss_scale_power,
            "loss_scale_window": config.train.loss_scale_window_steps,
        }
    return values
