"""Rotary position embedding: RoPE, arXiv 2104.09864 sec. 3.4.2.

The pairs are (i, i + H/2), the "rotate half" layout of Hugging Face's LLaMA, so that weights map by renaming alone.
Meta's own files pair (2i, 2i + 1): their wq and wk rows need a permutation.

Legend: B batch, T positions, N heads, H head size.
"""

import functools

import torch
from torch import Tensor


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair of `heads` [B, T, N, H] by the angle of its position; tables are fp32 [T, H/2], or
    [B, T, H/2] where the rows' positions differ.

    The product is formed in fp32: bf16 keeps 8 bits of an angle's cosine, too few for far positions.
    """
    first, second = heads.float().chunk(2, dim=-1)
    cosines, sines = cosines.unsqueeze(-2), sines.unsqueeze(-2)
    turned = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    return turned.to(heads.dtype)


@functools.lru_cache(maxsize=8)
def rotary_tables(head_size: int, theta: float, num_positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return fp32 (cosines, sines), each [num_positions, H/2], made once per device and shared by all layers.

    Made at first use instead of in a module: no cast of the model reaches them, and none is built under a
    meta device or ZeRO-3's constructor hooks.
    """
    # A table first made while generating would otherwise be an inference tensor, which backward cannot keep.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, head_size, 2, dtype=torch.int64, device=device).float() / head_size
        frequencies = 1.0 / (theta**exponents)
        positions = torch.arange(num_positions, dtype=torch.int64, device=device).float()
        angles = torch.outer(positions, frequencies)
        return angles.cos(), angles.sin()
