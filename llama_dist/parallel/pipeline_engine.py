"""Pipeline x ZeRO 0/1: each rank holds one slice of the layer list, micro-batches flow through the stages (1F1B)."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec

from llama_dist.config import RunConfig
from llama_dist.model.block import Block, run_block
from llama_dist.model.documents import lay_out_documents
from llama_dist.model.flops import layer_flops
from llama_dist.model.llama import build_layers, tied_logits
from llama_dist.model.loss import next_token_loss
from llama_dist.parallel.engine import MicroBatch, OnMicroBatch, StepResult, announced, tell_nobody
from llama_dist.parallel.grid import Grid
from llama_dist.parallel.held_state import HeldState
from llama_dist.parallel.label_count import counted_divisor, fixed_divisor, may_mask_labels
from llama_dist.parallel.optimizer_state import StateAccess

_TIED_KEY = "embed"

StageInput = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""What flows between stages: hidden vectors (token ids into the first stage), with positions if documents are
isolated. DeepSpeed passes tuples of tensors, and no gradient for those of whole numbers."""


class PipelineEngine(HeldState):
    """An `Engine` over DeepSpeed's `PipelineEngine`. Collective: every rank calls every method alike.

    Only the first stage reads tokens, only the last reads labels; those between may be given nothing to train on.
    """

    def __init__(self, engine: Any, state: StateAccess, grid: Grid, config: RunConfig) -> None:
        super().__init__(engine, state, grid)
        self._may_mask_labels = may_mask_labels(config.data)

    def train_batch(
        self, micro_batches: Sequence[MicroBatch], learning_rate: float, on_micro_batch: OnMicroBatch = tell_nobody
    ) -> StepResult:
        """Run one 1F1B schedule over `micro_batches`, then take one optimizer step."""
        engine = self._engine
        self._set_learning_rate(learning_rate)
        skipped_before = engine.skipped_steps
        if self._may_mask_labels:
            divisor = counted_divisor(micro_batches, self.grid, engine.device)
        else:
            divisor = fixed_divisor(micro_batches, engine.device)
        loss = engine.train_batch(_as_deepspeed_reads(announced(micro_batches, on_micro_batch), divisor))
        return StepResult(
            loss=float(loss),
            gradient_norm=float(engine.get_global_grad_norm()),
            skipped=engine.skipped_steps > skipped_before,
        )

    def evaluate(self, micro_batches: Sequence[MicroBatch], on_micro_batch: OnMicroBatch = tell_nobody) -> float:
        """Mean loss over the unmasked labels of all replicas' micro-batches, in nats."""
        divisor = counted_divisor(micro_batches, self.grid, self._engine.device)
        batches = _as_deepspeed_reads(announced(micro_batches, on_micro_batch), divisor)
        return float(self._engine.eval_batch(batches, num_micro_batches=len(micro_batches)))


class LlamaPipeline(PipelineModule):  # type: ignore[misc]
    """The layer list of the model, cut into stages of even FLOPs; this rank builds its stage alone."""

    def __init__(self, config: RunConfig) -> None:
        layers = build_layers(config.model)
        self._layer_names = [name for name, _ in layers]
        self._run_config = config
        self._weights = [int(flops) for flops in layer_flops(config.model, config.data.sequence_length_tokens)]
        super().__init__(
            layers=[_layer_spec(name, build, config.model.tie_embeddings) for name, build in layers],
            num_stages=config.parallel.pipeline_stages,
            loss_fn=_last_stage_loss,
        )

    def forward(self, stage_input: StageInput) -> StageInput:
        """Run this stage's layers; from the last stage come logits. Stands for DeepSpeed's own loop over them.

        That loop would hand each layer a tuple, and could not share one layout of the documents among them.
        """
        hidden, positions = stage_input if isinstance(stage_input, tuple) else (stage_input, None)
        documents = None if positions is None else lay_out_documents(positions, self._run_config.model)
        for layer in self.forward_funcs:
            if isinstance(layer, Block):
                hidden = run_block(layer, hidden, documents, recompute=self._run_config.train.activation_checkpointing)
            else:
                hidden = layer(hidden)
        if positions is None or self.stage_id == self.num_stages - 1:
            return hidden
        return hidden, positions

    def _partition_layers(self, method: str = "flops") -> None:
        """Cut as told, or by FLOPs: DeepSpeed's own methods count the embedding, which is only a lookup, as work."""
        blocks = self._run_config.parallel.layers_per_stage
        self.parts = cut_at(blocks) if blocks else even_cut(self._weights, self.num_stages)
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


def _as_deepspeed_reads(micro_batches: Iterable[MicroBatch], divisor: torch.Tensor) -> Iterator[Any]:
    """Yield (input of the first stage, what the last stage's loss takes beside the logits)."""
    for tokens, labels, positions in micro_batches:
        stage_input: StageInput = tokens if positions is None else (tokens, positions)
        yield stage_input, (labels, divisor)


def _last_stage_loss(logits: torch.Tensor, labels_and_divisor: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return next_token_loss(logits, *labels_and_divisor)


def cut_at(blocks_of_stages: Sequence[int]) -> list[int]:
    """Bounds of the stages in the layer list; the embedding goes to the first, norm and head to the last."""
    ends = list(itertools.accumulate(blocks_of_stages))
    return [0, *(end + 1 for end in ends[:-1]), ends[-1] + 3]


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
