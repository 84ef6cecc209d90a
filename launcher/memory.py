"""Estimates the memory of one rank from the config alone. Measures nothing; see the accuracy in `estimate_memory`.

Legend: P parameters of the stage, B micro-batch sequences, T tokens a sequence, D hidden size, N query heads,
K key/value heads, H head size, I feed-forward size, V vocabulary.
"""

from dataclasses import dataclass

from llama_dist.config import ModelConfig, RunConfig

_FP32_BYTES = 4
_LOGITS_COPIES = 3  # the fp32 logits, their log-softmax and their gradient, where the loss is computed in one piece


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one rank of a pipeline stage. All ranks of a stage are alike."""

    pp_stage: int
    num_layers: int
    num_parameters: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum of the parts."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def estimate_memory(config: RunConfig, dp_size: int, accumulation: int) -> tuple[StageMemory, ...]:
    """Estimate each stage's ranks.

    Model state after ZeRO (arXiv 1910.02054, sec. 3.1 and fig. 1), with c = bytes of the compute precision:
    weights c P, gradients c P plus 4 P of fp32 accumulation where c < 4, master weights and two moments 12 P; divided
    by the data-parallel size from stage 1 (optimizer), 2 (gradients), 3 (weights) on. An offloaded optimizer counts
    nothing: it takes host memory.
    Activations after Korthikanti et al. (arXiv 2205.05198, sec. 4) for this block: see `_layer_activation_bytes`.
    Left out: communication buffers, the allocator's slack, and the framework's own 0.5 GiB or so. Expect the model
    state within 10 % and the activations within a factor of 1.5.
    """
    stages = config.parallel.pipeline_stages
    return tuple(
        _stage_memory(config, stage, _layers_of(config, stage), dp_size, accumulation) for stage in range(stages)
    )


def _layers_of(config: RunConfig, stage: int) -> int:
    """Layers of a stage: as told, or dealt evenly, of which the engine moves a few so that the FLOPs are even."""
    if config.parallel.layers_per_stage:
        return config.parallel.layers_per_stage[stage]
    layers, stages = config.model.num_layers, config.parallel.pipeline_stages
    return layers // stages + (1 if stage < layers % stages else 0)


def _stage_memory(config: RunConfig, stage: int, num_layers: int, dp_size: int, accumulation: int) -> StageMemory:
    parameters = _stage_parameters(config, stage, num_layers)
    zero, compute_bytes = config.parallel.zero_stage, _compute_bytes(config)
    gradient_bytes = compute_bytes + (_FP32_BYTES if compute_bytes < _FP32_BYTES else 0)
    return StageMemory(
        pp_stage=stage,
        num_layers=num_layers,
        num_parameters=parameters,
        weights_bytes=compute_bytes * parameters // (dp_size if zero >= 3 else 1),
        gradients_bytes=gradient_bytes * parameters // (dp_size if zero >= 2 else 1),
        optimizer_bytes=0
        if config.parallel.offload_optimizer
        else 3 * _FP32_BYTES * parameters // (dp_size if zero >= 1 else 1),
        activations_bytes=_activation_bytes(config, stage, num_layers, accumulation),
    )


def _stage_parameters(config: RunConfig, stage: int, num_layers: int) -> int:
    model, last = config.model, config.parallel.pipeline_stages - 1
    embedding = model.vocabulary_size * model.hidden_size
    ends = embedding * (2 if stage == 0 == last and not model.tie_embeddings else 1)
    per_layer = (model.num_parameters - embedding * (1 if model.tie_embeddings else 2)) // model.num_layers
    return num_layers * per_layer + (ends if stage in (0, last) else 0)


def _activation_bytes(config: RunConfig, stage: int, num_layers: int, accumulation: int) -> int:
    """Return what the forward pass keeps for the backward pass; 1F1B holds `stages - stage` micro-batches at once."""
    model, stages = config.model, config.parallel.pipeline_stages
    tokens = config.batch.micro_batch_sequences * config.data.sequence_length_tokens
    layer = _layer_activation_bytes(model, tokens, _compute_bytes(config))
    kept = num_layers * layer
    if config.train.activation_checkpointing:  # each block's input is kept, and one block is computed again at a time
        kept = num_layers * tokens * model.hidden_size * _compute_bytes(config) + layer
    in_flight = min(accumulation, stages - stage)
    logits = _LOGITS_COPIES * _FP32_BYTES * tokens * model.vocabulary_size if stage == stages - 1 else 0
    return in_flight * kept + logits


def _layer_activation_bytes(model: ModelConfig, tokens: int, compute_bytes: int) -> int:
    """Return what one block keeps, attention scores left out.

    Two norm inputs, two norm outputs (4 D), q and the attention output (2 N H), k and v (2 K H), both gate
    inputs, the activated gate and its product (4 I).
    """
    heads = 2 * (model.num_heads + model.kv_heads) * model.resolved_head_size
    return tokens * compute_bytes * (4 * model.hidden_size + heads + 4 * model.feed_forward_size)


def _compute_bytes(config: RunConfig) -> int:
    return _FP32_BYTES if config.train.precision == "fp32" else 2
