"""Trains models with plain DeepSpeed and saves them its way, or trains on with our engine; rank 0 prints the losses.

A job of DeepSpeed's: {"names": "ours" or "hugging_face", "zero": 1, "precision": "fp32", "steps": 3, "more": 2,
"save": directory, "truth": file}. It trains, saves with DeepSpeed's `save_checkpoint`, writes the whole fp32 weights
and moments that DeepSpeed itself tells into `truth` (safetensors, `name:state`), and goes on for `more` steps.
A job with "load" goes on with our engine from an imported checkpoint instead, over the same batches.
"""

import json
import sys
from functools import partial
from pathlib import Path

import deepspeed
import safetensors.torch
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from engine_jobs import micro_batches, run_config

from llama_dist.checkpoint.load import agree_on_newest_good, load_into
from llama_dist.model import Llama, next_token_loss
from llama_dist.model.initialization import initialize_weights
from llama_dist.optim.adamw import build_adamw
from llama_dist.parallel.build import build_engine, join_deepspeed
from llama_dist.parallel.engine import STATES
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.process_group import World, process_group

RATE = 1e-2


class Wrapped(torch.nn.Module):
    """Gives each parameter the prefix that data parallel wrappers give."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, tokens):
        return self.module(tokens)


class LogitsOf(torch.nn.Module):
    """A model of transformers under its own parameter names, which answers the logits alone."""

    def __init__(self, theirs):
        super().__init__()
        self.model, self.lm_head = theirs.model, theirs.lm_head

    def forward(self, tokens):
        return self.lm_head(self.model(tokens).last_hidden_state)


def build_model(job, config):
    if job["names"] == "hugging_face":
        return LogitsOf(hugging_face_model(config.model))
    model = Llama(config.model)
    initialize_weights(model.named_parameters(), config.model, config.train.seed)
    return Wrapped(model) if job.get("wrapped") else model


def hugging_face_model(model):
    from transformers import LlamaConfig, LlamaForCausalLM  # some seconds, which other jobs need not wait

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=model.vocabulary_size, hidden_size=model.hidden_size, intermediate_size=model.feed_forward_size,
        num_hidden_layers=model.num_layers, num_attention_heads=model.num_heads, num_key_value_heads=model.kv_heads,
        max_position_embeddings=model.max_sequence_length_tokens, rms_norm_eps=model.norm_epsilon,
        tie_word_embeddings=model.tie_embeddings,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config)
    theirs.tie_weights()
    return theirs


def user_config(job, config, world):
    """What a user of DeepSpeed would write."""
    micro = config.batch.micro_batch_sequences
    # Small buckets: those that DeepSpeed takes by itself are 2 GB, and filling them takes longer than the training.
    zero = {"stage": job["zero"], "reduce_bucket_size": 50_000, "allgather_bucket_size": 50_000}
    values = {
        "train_batch_size": config.batch.global_batch_sequences,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": config.batch.global_batch_sequences // (micro * world.world_size),
        "gradient_clipping": config.optimizer.gradient_clip_norm,
        "zero_optimization": zero | job.get("zero_options", {}),
        "zero_allow_untested_optimizer": True,
    }
    if config.train.precision != "fp32":
        values[config.train.precision] = {"enabled": True}
        values["data_types"] = {"grad_accum_dtype": job.get("accumulate", "fp32")}
    if config.train.precision == "fp16":
        values["fp16"]["initial_scale_power"] = job.get("loss_scale_power", 8)
    return values


def build_user_optimizer(job, model, config):
    options = optimizer_options(job, config)
    if job.get("one_group"):
        return torch.optim.AdamW(
            model.parameters(), RATE, (options.beta1, options.beta2), options.epsilon, options.weight_decay
        )
    return build_adamw(model.named_parameters(), options)


def optimizer_options(job, config):
    """In one group all weights decay alike, which our optimizer never does: then none does."""
    return config.optimizer.model_copy(update={"weight_decay": 0.0}) if job.get("one_group") else config.optimizer


def train(job, world):
    """Train with DeepSpeed, save, go on."""
    config = run_config(job)
    grid = Grid(world.rank, world.world_size, 1)
    model = build_model(job, config)
    optimizer = build_user_optimizer(job, model, config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=user_config(job, config, world))
    for group in engine.optimizer.param_groups:
        group["lr"] = RATE
    losses = [step(engine, batches) for batches in (micro_batches(one, grid) for one in range(job["steps"]))]
    engine.save_checkpoint(job["save"])
    write_truth(job, engine, world)
    more = range(job["steps"], job["steps"] + job["more"])
    return {"before": losses, "after": [step(engine, micro_batches(one, grid)) for one in more]}


def step(engine, batches):
    """One optimizer step; answers the mean loss of the global batch."""
    total = torch.zeros(())
    for batch in batches:
        loss = next_token_loss(engine(batch.tokens), batch.labels)
        engine.backward(loss)
        engine.step()
        total += loss.detach().float()
    torch.distributed.all_reduce(total)
    return float(total) / (len(batches) * torch.distributed.get_world_size())


def write_truth(job, engine, world):
    """Collective. Write what DeepSpeed says that its state is."""
    if hasattr(engine.optimizer, "_hp_optimizer_states_linked"):
        # With two groups DeepSpeed 0.19.8 links the moments of the first alone: the others have none at that moment.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    tensors = {}
    for name, parameter in engine.module.named_parameters():
        for state in STATES if engine.zero_optimization() else STATES[:1]:
            tensors[f"{name}:{state}"] = whole_of(engine, parameter, state)
    if world.rank == 0:
        safetensors.torch.save_file(tensors, job["truth"])


def whole_of(engine, parameter, state):
    if not engine.zero_optimization():
        return parameter.detach().float().clone()
    read = (
        partial(safe_get_full_optimizer_state, optim_state_key=state) if state != "fp32" else safe_get_full_fp32_param
    )
    return read(parameter).detach().clone().contiguous()


def go_on(job, world):
    """Load an imported checkpoint into our engine and train on."""
    config = run_config(job)
    grid = Grid(world.rank, world.world_size, config.parallel.pipeline_stages)
    options = optimizer_options(job, config)
    engine = build_engine(config, grid, lambda named: build_adamw(named, options))
    load_into(engine, agree_on_newest_good(Path(job["load"]), world.rank, world.world_size))
    steps = range(job["steps"], job["steps"] + job["more"])
    results = [engine.train_batch(micro_batches(one, grid), RATE) for one in steps]
    return {"after": [result.loss for result in results], "scalars": engine.scalars()}


def main():
    jobs = json.loads(Path(sys.argv[1]).read_text())
    world = World.from_environment()
    # DeepSpeed asks for fast fp16 kernels; the slow ones compute the same.
    get_accelerator().is_fp16_supported = lambda: True
    with process_group(world, timeout_seconds=60):
        join_deepspeed()
        results = {name: (go_on if job.get("load") else train)(job, world) for name, job in jobs.items()}
        if world.rank == 0:
            print(json.dumps(results))


if __name__ == "__main__":
    main()
