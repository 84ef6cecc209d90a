"""Pipeline x ZeRO 0/1: each rank holds one slice of the layer list, micro-batches flow through the stages (1F1B)."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec

from llama_dist.config import RunConfig
from llama_dist.model.flops import layer_flops
from llama_dist.model.llama import build_layers, tied_logits
from llama_dist.model.loss import next_token_loss
from llama_dist.parallel.engine import MicroBatch, StepResult
from llama_dist.parallel.held_state import HeldState

_TIED_KEY = "embed"


class PipelineEngine(HeldState):
    """An `Engine` over DeepSpeed's `PipelineEngine`. Collective: every rank calls every method alike.

    Only the first stage reads tokens and only the last reads labels; the others may be given anything.
    """

    def train_batch(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """Run one 1F1B schedule over `micro_batches`, then take one optimizer step."""
        engine = self._engine
        self._set_learning_rate(learning_rate)
        skipped_before = engine.skipped_steps
        loss = engine.train_batch(iter(micro_batches))
        return StepResult(
            loss=float(loss),
            gradient_norm=float(engine.get_global_grad_norm()),
            skipped=engine.skipped_steps > skipped_before,
        )

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Mean loss over all replicas' micro-batches, in nats."""
        return float(self._engine.eval_batch(iter(micro_batches), num_micro_batches=len(micro_batches)))


class LlamaPipeline(PipelineModule):  # type: ignore[misc]
    """The layer list of the model, cut into stages of even FLOPs; this rank builds its stage alone."""

    def __init__(self, config: RunConfig) -> None:
        layers = build_layers(config.model)
        self._layer_names = [name for name, _ in layers]
        self._weights = [int(flops) for flops in layer_flops(config.model, config.data.sequence_length_tokens)]
        super().__init__(
            layers=[_layer_spec(name, build, config.model.tie_embeddings) for name, build in layers],
            num_stages=config.parallel.pipeline_stages,
            loss_fn=next_token_loss,
            activation_checkpoint_interval=1 if config.train.activation_checkpointing else 0,
            # DeepSpeed's reentrant default fails on the first layer, whose input (token ids) needs no gradient.
            activation_checkpoint_func=partial(torch.utils.checkpoint.checkpoint, use_reentrant=False),
            checkpointable_layers=["Block"],
        )

    def _partition_layers(self, method: str = "flops") -> None:
        """Cut by FLOPs: DeepSpeed's own methods count the embedding, which is only a lookup, as work."""
        self.parts = even_cut(self._weights, self.num_stages)
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])

    def topology_free_names(self) -> dict[str, torch.nn.Parameter]:
        """Map the model's own parameter names to this stage's parameters."""
        return dict(self._named_topology_free())

    def _named_topology_free(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name, parameter in self.named_parameters():
            scope, _, rest = name.partition(".")
            if scope == "tied_modules":
                yield rest, parameter
            else:
                yield f"{self._layer_names[int(scope)]}.{rest}", parameter


def even_cut(layer_weights: Sequence[int], num_stages: int) -> list[int]:
    """Bounds of the stages in the layer list (embed, blocks, norm, head), so that the heaviest stage is lightest.

    The embedding stays with the first block and the norm with the head, and no stage is empty: so every stage has
    matrices and norms. DeepSpeed reduces the gradient norm once per optimizer group; a stage that lacked one of the
    two groups would leave the others waiting for ever.
    """
    embed, *blocks, norm, head = layer_weights
    units = [embed + blocks[0], *blocks[1:], norm + head]
    assert 1 <= num_stages <= len(units)
    ends = _lightest_ends(units, num_stages)
    # Unit u starts at layer u + 1, but for the first, which begins with the embedding.
    return [0, *(end + 1 for end in ends[:-1]), len(layer_weights)]


def _lightest_ends(units: Sequence[int], num_stages: int) -> list[int]:
    """End of each stage in `units`; dynamic programming over (units placed, stages used)."""
    sums = [0, *itertools.accumulate(units)]
    best: dict[tuple[int, int], tuple[int, list[int]]] = {(0, 0): (0, [])}
    for stage in range(1, num_stages + 1):
        for end in range(stage, len(units) + 1):
            best[end, stage] = min(
                (max(heaviest, sums[end] - sums[start]), [*ends, end])
                for start in range(stage - 1, end)
                if (start, stage - 1) in best
                for heaviest, ends in [best[start, stage - 1]]
            )
    return best[len(units), num_stages][1]


def _layer_spec(name: str, build: Callable[[], torch.nn.Module], is_tied: bool) -> Any:
    if is_tied and name == "embed":
        return TiedLayerSpec(_TIED_KEY, _Deferred, build, tied_weight_attr="weight")
    if is_tied and name == "head":
        return TiedLayerSpec(_TIED_KEY, _Deferred, build, forward_fn=tied_logits, tied_weight_attr="weight")
    return LayerSpec(_Deferred, build)


class _Deferred(torch.nn.Module):
    """Answers with the layer of a factory, so that DeepSpeed's specs, which want a class, build only local layers."""

    def __new__(cls, build: Callable[[], torch.nn.Module]) -> Any:
        return build()
