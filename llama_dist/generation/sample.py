"""From the logits of one position to one token: greedy, temperature, top-k, top-p. Knows no model and no text.

Legend: V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llama_dist.generation.errors import GenerationError


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. The default draws from the model's own distribution."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""

    top_k: int = 0
    """Number of likeliest tokens that may be drawn; 0 is all."""

    top_p: float = 1.0
    """Draw from the fewest likeliest tokens whose probabilities, after top-k, sum to this (arXiv 1904.09751)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise GenerationError(f"temperature {self.temperature}: needs a finite number of at least 0")
        if self.top_k < 0:
            raise GenerationError(f"top-k {self.top_k}: needs a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise GenerationError(f"top-p {self.top_p}: needs a probability above 0 and at most 1")


def token_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the fp64 distribution [V] that a token is drawn from, given the logits [V] of one position."""
    # The stable sort gives equal logits to the lower id, so that the cut at top-k is the same on every machine.
    descending, order = torch.sort(logits.double(), descending=True, stable=True)
    if sampling.temperature == 0:
        return torch.zeros_like(descending).index_fill_(0, order[:1], 1.0)
    # Less the largest, and in fp64, every temperature has a quotient: none overflows, none is 0 / 0.
    descending = (descending - descending[0]) / sampling.temperature
    if sampling.top_k:
        descending[sampling.top_k :] = -torch.inf
    shares = torch.softmax(descending, dim=0)
    if sampling.top_p < 1:
        sum_before = torch.cumsum(shares, dim=0) - shares
        sum_before[0] = 0.0  # the likeliest token stays, whatever rounding says
        shares = shares.masked_fill(sum_before >= sampling.top_p, 0.0)
    return torch.zeros_like(shares).scatter_(0, order, shares / shares.sum())


def draw_token(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one id, given logits [V] on the CPU; a greedy draw leaves the generator alone."""
    if not torch.isfinite(logits).all():
        raise GenerationError(
            "the model's logits are not all finite: its weights have diverged; use an older checkpoint"
        )
    if sampling.temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(token_probabilities(logits, sampling), 1, generator=generator))
