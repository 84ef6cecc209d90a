"""Where the documents of a packed batch lie: computed once per forward pass, used by every layer of it.

Does no attention itself (`attention_product.py` does).
Legend: B batch, T positions, H head size.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from llama_dist.config import ModelConfig
from llama_dist.model.rotary import rotary_tables


@dataclass(frozen=True)
class DocumentLayout:
    """The document parts of one batch, end to end as in the flattened [B * T], and the rotary angles of its places."""

    lengths: tuple[int, ...]
    """Tokens of each document part, in order; they add up to B * T."""

    bounds: Tensor
    """int32 [parts + 1]: first token of each part, and B * T. On the device of the batch."""

    cosines: Tensor
    """fp32 [B, T, H/2], by the position inside the document."""

    sines: Tensor
    """fp32 [B, T, H/2]"""

    @property
    def longest(self) -> int:
        """Tokens of the longest part."""
        return max(self.lengths)


def lay_out_documents(positions: Tensor, config: ModelConfig) -> DocumentLayout:
    """Read the layout from int64 [B, T] positions, in which every 0 begins a document part, as does every row.

    Waits for the device once, since kernels take the lengths from the host.
    """
    row_length, num_places = positions.shape[1], positions.numel()
    assert row_length <= config.max_sequence_length_tokens, f"rows of {row_length} are past the model's longest"
    starts = torch.nonzero(positions.flatten() == 0).flatten().tolist()
    assert set(starts) >= set(range(0, num_places, row_length)), "a row does not begin with position 0"
    bounds = [*starts, num_places]
    tables = rotary_tables(
        config.resolved_head_size, config.rope_theta, config.max_sequence_length_tokens, positions.device
    )
    return DocumentLayout(
        lengths=tuple(end - start for start, end in pairwise(bounds)),
        bounds=torch.tensor(bounds, dtype=torch.int32, device=positions.device),
        cosines=tables[0][positions],
        sines=tables[1][positions],
    )
