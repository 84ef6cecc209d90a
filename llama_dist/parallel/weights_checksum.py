"""A number that says whether two ranks hold the same weights, bit for bit. Computed where the weights are."""

from collections.abc import Iterable

import torch

_CHUNK_ELEMENTS = 1 << 20
_MULTIPLIER = 6364136223846793005  # Knuth's for 64-bit congruential generators: odd, so that no bit is lost
_BITS_OF_BYTES = {2: torch.int16, 4: torch.int32}


@torch.no_grad()
def weights_checksum(weights: Iterable[torch.Tensor]) -> int:
    """Return a 64-bit checksum of the bit patterns, so that -0.0 and NaN count; every flipped bit changes it.

    A polynomial in wrapping arithmetic: made against faults of hardware, not against people.
    """
    factors: dict[torch.device, torch.Tensor] = {}
    total: torch.Tensor | None = None
    for weight in weights:
        if weight.device not in factors:
            # Odd factors, another one for each place of a chunk: a single flip always shows, exchanged elements too.
            places = torch.arange(_CHUNK_ELEMENTS, dtype=torch.int64, device=weight.device)
            factors[weight.device] = places * (_MULTIPLIER - 1) + 1
        bits = weight.detach().reshape(-1).view(_BITS_OF_BYTES[weight.element_size()])
        for chunk in torch.split(bits, _CHUNK_ELEMENTS):
            part = (chunk.to(torch.int64) * factors[weight.device][: chunk.numel()]).sum()
            total = part if total is None else total * _MULTIPLIER + part
    return 0 if total is None else int(total)
