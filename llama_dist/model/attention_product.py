"""Causal attention over given queries, keys and values: the arithmetic, and which kernel does it where.

Legend: B batch, T query positions, S key positions (S >= T; the queries are the last T of them), N query heads,
K key/value heads, G = N / K query heads for each of them, H head size. Query head n reads key/value head n // G.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from llama_dist.model.documents import DocumentLayout


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Map queries [B, N, T, H] with keys and values [B, K, S, H] to [B, N, T, H], by the kernel that fits."""
    num_queries, num_keys = queries.shape[2], keys.shape[2]
    if num_queries not in (1, num_keys) or _explicit_is_faster(queries):
        return explicit_attention(queries, keys, values)
    return fused_attention(queries, keys, values)


def isolated_attention(queries: Tensor, keys: Tensor, values: Tensor, documents: DocumentLayout) -> Tensor:
    """Map queries [B, T, N, H] with keys and values [B, T, K, H] to [B, T, N, H]; none looks into another document.

    The places of the heads differ from `causal_attention`: documents are cut from the flattened [B * T].
    """
    kernel = varlen_attention if _varlen_can(queries) else attention_by_document
    mixed = kernel(queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), documents)
    return mixed.view(queries.shape)


def attention_by_document(queries: Tensor, keys: Tensor, values: Tensor, documents: DocumentLayout) -> Tensor:
    """Run one causal kernel after the other, on heads of the flattened batch, [B * T, N, H] and [B * T, K, H].

    Against one fused call with a dense mask, forward and backward in fp32 on an AVX2 core, 4,096 tokens: 2 to 3 times
    as fast at 512 positions, 6 to 15 times at 2,048, for documents of 10 to 200 tokens; grouping those of like length
    with padding gained nothing above 10 tokens.
    """
    # One backward for all parts; a slice for each would write a whole gradient of zeros a document.
    parts = zip(*(heads.split_with_sizes(documents.lengths) for heads in (queries, keys, values)), strict=True)
    mixed = [
        causal_attention(*(part.transpose(0, 1).unsqueeze(0) for part in heads)).squeeze(0).transpose(0, 1)
        for heads in parts
    ]
    return torch.cat(mixed)


def varlen_attention(queries: Tensor, keys: Tensor, values: Tensor, documents: DocumentLayout) -> Tensor:
    """Run flash attention once over all documents, on heads of the flattened batch: CUDA, bf16 or fp16."""
    bounds, longest = documents.bounds, documents.longest
    to_the_left_alone = (-1, 0)
    mixed = varlen_attn(
        queries,
        keys,
        values,
        bounds,
        bounds,
        longest,
        longest,
        window_size=to_the_left_alone,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    assert isinstance(mixed, Tensor)  # a tuple only where more than the output is asked for
    return mixed


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Use PyTorch's fused kernel, for T = S or T = 1. `is_causal` without a dense mask keeps it on flash attention."""
    is_causal, is_grouped = queries.shape[2] > 1, queries.shape[1] != keys.shape[1]
    assert not is_causal or queries.shape[2] == keys.shape[2], "is_causal aligns the mask to the first key"
    attend = functional.scaled_dot_product_attention
    return attend(queries, keys, values, is_causal=is_causal, enable_gqa=is_grouped)


def explicit_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Hold the whole score matrix [B, N, T, S]: two matrix products and a softmax, for any T <= S."""
    batch, num_heads, num_queries, head_size = queries.shape
    kv_heads, num_keys = keys.shape[1:3]
    groups = num_heads // kv_heads
    # The heads of a group stand below each other, so that shared keys are not copied.
    stacked = queries.reshape(batch * kv_heads, groups * num_queries, head_size) / math.sqrt(head_size)
    scores = torch.bmm(stacked, keys.reshape(batch * kv_heads, num_keys, head_size).transpose(1, 2))
    scores = scores.view(batch * kv_heads, groups, num_queries, num_keys) + _causal_bias(num_queries, num_keys, queries)
    shares = torch.softmax(scores, dim=-1).view(batch * kv_heads, groups * num_queries, num_keys)
    mixed = torch.bmm(shares, values.reshape(batch * kv_heads, num_keys, head_size))
    return mixed.view(batch, num_heads, num_queries, head_size)


def _varlen_can(queries: Tensor) -> bool:
    """Tell what flash attention takes: half precision on CUDA, heads of a multiple of 8 up to 256."""
    head_size = queries.shape[-1]
    return queries.is_cuda and queries.dtype != torch.float32 and head_size % 8 == 0 and head_size <= 256


def _explicit_is_faster(queries: Tensor) -> bool:
    """Tell where the matrix units of a CPU for bf16 beat the fused kernel, which does not use them as well.

    Measured at T = 512, forward and backward: bf16 with AVX-512 and AMX 2.5 times as fast; fp32 with AVX2 up to 2
    times as slow, since the scores are written to memory.
    """
    if queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
        return False
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX512")


def _causal_bias(num_queries: int, num_keys: int, like: Tensor) -> Tensor:
    """Return [T, S]: 0 where a query may look, minus infinity at later positions."""
    bias = torch.full((num_queries, num_keys), -math.inf, device=like.device, dtype=like.dtype)
    return bias.triu(num_keys - num_queries + 1)
