"""What the summed loss of a micro-batch is divided by, so that no cut of the global batch changes its mean.

Engines average over micro-batches and replicas. Masked labels are spread unevenly over them, so that a mean of means
would depend on the micro-batch and on the number of replicas. Each sum is divided by the same number instead: the
labels of the whole global batch, shared evenly over its micro-batches.
"""

from collections.abc import Sequence

import torch

from llama_dist.config import DataConfig
from llama_dist.model.loss import IGNORED_LABEL
from llama_dist.parallel.engine import MicroBatch
from llama_dist.parallel.grid import Grid


def may_mask_labels(data: DataConfig) -> bool:
    """Whether the stream may leave labels out; if not, every micro-batch has as many, and nobody need ask."""
    return data.mask_boundary_labels or data.packing == "best_fit"


def fixed_divisor(micro_batches: Sequence[MicroBatch], device: torch.device) -> torch.Tensor:
    """Return the labels of one micro-batch, where none is masked: fp32, no dimension. Nothing is communicated."""
    num_labels = micro_batches[0].labels.numel() if micro_batches else 1  # a middle stage computes no loss
    return torch.tensor(float(num_labels), device=device)


def counted_divisor(micro_batches: Sequence[MicroBatch], grid: Grid, device: torch.device) -> torch.Tensor:
    """Collective over the whole world. Return the unmasked labels per micro-batch, over all replicas: fp32 > 0.

    Of a pipeline only the first stage counts, since the others hold the same labels or none.
    """
    counts = torch.zeros(2, dtype=torch.int64)
    if grid.is_first_stage:
        counts[0] = sum(int((batch.labels != IGNORED_LABEL).sum()) for batch in micro_batches)
        counts[1] = len(micro_batches)
    counts = counts.to(device, non_blocking=True)
    torch.distributed.all_reduce(counts)
    # A global batch without any label has loss 0.
    return counts[0].clamp(min=1).float() / counts[1]
