"""ZeRO 0 to 3: every rank holds the whole model's computation and a part of its state."""

from collections.abc import Sequence
from typing import Any

import torch

from llama_dist.config import RunConfig
from llama_dist.model.loss import next_token_loss
from llama_dist.parallel.engine import MicroBatch, OnMicroBatch, StepResult, announced, tell_nobody
from llama_dist.parallel.grid import Grid
from llama_dist.parallel.held_state import HeldState
from llama_dist.parallel.label_count import counted_divisor, fixed_divisor, may_mask_labels
from llama_dist.parallel.optimizer_state import StateAccess


class ZeroEngine(HeldState):
    """An `Engine` over DeepSpeed's `DeepSpeedEngine`. Collective: every rank calls every method alike."""

    def __init__(self, engine: Any, state: StateAccess, grid: Grid, config: RunConfig) -> None:
        super().__init__(engine, state, grid)
        self._plain_optimizer = not engine.zero_optimization()
        self._may_mask_labels = may_mask_labels(config.data)
        self._clip_norm = config.optimizer.gradient_clip_norm or float("inf")

    def train_batch(
        self, micro_batches: Sequence[MicroBatch], learning_rate: float, on_micro_batch: OnMicroBatch = tell_nobody
    ) -> StepResult:
        """Accumulate over `micro_batches`, then take one optimizer step."""
        engine = self._engine
        engine.train()
        self._set_learning_rate(learning_rate)
        skipped_before = engine.skipped_steps
        total = torch.zeros((), dtype=torch.float32, device=engine.device)
        norm = None
        divisor = self._divisor(micro_batches)
        for micro_batch in announced(micro_batches, on_micro_batch):
            loss = self._loss(micro_batch, divisor)
            engine.backward(loss)
            total += loss.detach()
            if self._plain_optimizer and engine.is_gradient_accumulation_boundary():
                norm = torch.nn.utils.clip_grad_norm_(engine.module.parameters(), self._clip_norm)
            engine.step()
        norm = engine.get_global_grad_norm() if norm is None else norm
        return StepResult(
            loss=self._mean_over_ranks(total / len(micro_batches)),
            gradient_norm=float(norm),
            skipped=engine.skipped_steps > skipped_before,
        )

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch], on_micro_batch: OnMicroBatch = tell_nobody) -> float:
        """Mean loss over the unmasked labels of all ranks' micro-batches, in nats."""
        self._engine.eval()
        divisor = counted_divisor(micro_batches, self.grid, self._engine.device)
        losses = [self._loss(micro_batch, divisor) for micro_batch in announced(micro_batches, on_micro_batch)]
        return self._mean_over_ranks(torch.stack(losses).mean())

    def _divisor(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor:
        if self._may_mask_labels:
            return counted_divisor(micro_batches, self.grid, self._engine.device)
        return fixed_divisor(micro_batches, self._engine.device)

    def _loss(self, micro_batch: MicroBatch, divisor: torch.Tensor) -> torch.Tensor:
        device = self._engine.device
        positions = micro_batch.positions
        if positions is not None:
            positions = positions.to(device, non_blocking=True)
        logits = self._engine(micro_batch.tokens.to(device, non_blocking=True), positions=positions)
        return next_token_loss(logits, micro_batch.labels.to(device, non_blocking=True), divisor)

    def _mean_over_ranks(self, value: torch.Tensor) -> float:
        torch.distributed.all_reduce(value)
        return float(value) / self.grid.dp_size
