"""The kernels agree with each other and with a loop, whichever is picked on a device."""

import math

import pytest
import torch

from llama_dist.model.attention_product import causal_attention, explicit_attention, fused_attention


def random_heads(kv_heads: int, num_queries: int, num_keys: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(num_queries)
    shapes = [(2, 6, num_queries, 8), (2, kv_heads, num_keys, 8), (2, kv_heads, num_keys, 8)]
    return tuple(torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes)


def attention_by_loop(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One query at a time, as the legend says it."""
    output = torch.zeros_like(queries)
    batch, num_heads, num_queries, head_size = queries.shape
    first_position = keys.shape[2] - num_queries
    for b in range(batch):
        for n in range(num_heads):
            k = n // (num_heads // keys.shape[1])
            for t in range(num_queries):
                visible = first_position + t + 1
                shares = torch.softmax(keys[b, k, :visible] @ queries[b, n, t] / math.sqrt(head_size), dim=0)
                output[b, n, t] = shares @ values[b, k, :visible]
    return output


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (7, 7), (1, 7), (3, 7)])
def test_attention_equals_a_loop_over_queries(kv_heads: int, num_queries: int, num_keys: int) -> None:
    heads = random_heads(kv_heads, num_queries, num_keys)
    with torch.no_grad():
        expected = attention_by_loop(*heads)
        torch.testing.assert_close(explicit_attention(*heads), expected)
        torch.testing.assert_close(causal_attention(*heads), expected)
        if num_queries in (1, num_keys):
            torch.testing.assert_close(fused_attention(*heads), expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_both_kernels_have_the_same_gradients(kv_heads: int) -> None:
    heads = random_heads(kv_heads, 9, 9)
    weights = torch.randn(2, 6, 9, 8, generator=torch.Generator().manual_seed(3))
    gradients = [
        torch.autograd.grad((kernel(*heads) * weights).sum(), heads) for kernel in (fused_attention, explicit_attention)
    ]
    for fused, explicit in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, explicit)


def test_fused_kernel_refuses_queries_that_its_mask_would_misplace() -> None:
    with pytest.raises(AssertionError, match="first key"):
        fused_attention(*random_heads(2, 3, 7))


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_bf16_kernels_agree(kv_heads: int) -> None:
    heads = [part.detach().to(torch.bfloat16) for part in random_heads(kv_heads, 9, 9)]
    # the explicit kernel rounds scores and shares to 8 bits between its steps
    torch.testing.assert_close(explicit_attention(*heads), fused_attention(*heads), atol=0.05, rtol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; the CPU twin is above")
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_cuda_kernel_equals_the_cpu(kv_heads: int) -> None:
    on_cpu, on_cuda = (causal_attention(*random_heads(kv_heads, 9, 9, device)) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, atol=1e-5, rtol=1e-5)
