"""Token ids after token ids: one pass over the prompt, then one position a token with cached keys and values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_dist.generation.errors import GenerationError
from llama_dist.generation.sample import Sampling, draw_token
from llama_dist.model import KeyValueCache, Llama


@dataclass(frozen=True)
class GeneratedToken:
    """One token, and how likely the model held it."""

    token_id: int

    log_probability: float
    """Natural logarithm, in nats, under the model itself: before temperature, top-k and top-p."""


@torch.inference_mode()
def generate_tokens(
    model: Llama,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    vocabulary_size: int,
    eos_id: int | None = None,
    seed: int = 0,
) -> Iterator[GeneratedToken]:
    """Yield up to `max_new_tokens` tokens that continue `prompt`, among the ids below `vocabulary_size`.

    Stops after EOS, which it yields, and where prompt and text reach the model's longest sequence. The same seed
    gives the same tokens. Raises GenerationError for a prompt that is empty or leaves no room.
    """
    num_positions = _num_positions(model, prompt, max_new_tokens)
    weight = next(model.parameters())
    cache = KeyValueCache(model.config, num_positions, device=weight.device, dtype=weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([list(prompt)], dtype=torch.int64, device=weight.device)
    for _ in range(num_positions - len(prompt)):
        logits = _last_logits(model, tokens, cache)[:vocabulary_size]
        token = draw_token(logits, sampling, generator)
        yield GeneratedToken(token, float(torch.log_softmax(logits, dim=0)[token]))
        if token == eos_id:
            return
        tokens = torch.full_like(tokens[:, :1], token)


def _last_logits(model: Llama, tokens: Tensor, cache: KeyValueCache) -> Tensor:
    """Feed ids [1, T] and return the last position's logits [V], fp32 on the CPU."""
    logits: Tensor = model(tokens, cache)
    return logits[0, -1].float().cpu()


def _num_positions(model: Llama, prompt: Sequence[int], max_new_tokens: int) -> int:
    """Length of prompt and text together, within the model's longest sequence."""
    longest = model.config.max_sequence_length_tokens
    if not prompt:
        raise GenerationError("the prompt is 0 tokens: generation needs at least one to start from")
    if max_new_tokens < 1:
        raise GenerationError(f"max-new-tokens {max_new_tokens}: needs at least 1")
    if len(prompt) >= longest:
        raise GenerationError(
            f"the prompt is {len(prompt)} tokens, the model's longest sequence {longest}: "
            f"shorten it to at most {longest - 1}"
        )
    return min(longest, len(prompt) + max_new_tokens)
