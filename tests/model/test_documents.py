"""Attention inside documents: a packed row gives what each document gives alone, by every kernel."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from data_pipeline.batch import Batch
from llama_dist.config import ModelConfig
from llama_dist.model import KeyValueCache, Llama, initialize_weights, llama
from llama_dist.model.attention_product import attention_by_document, isolated_attention, varlen_attention
from llama_dist.model.documents import DocumentLayout, lay_out_documents

# Bounds of the documents in two rows of 17 tokens: one of a single token, one that fills its row.
ROWS = ((0, 5, 6, 17), (0, 17))


def positions_of(rows: tuple[tuple[int, ...], ...] = ROWS) -> torch.Tensor:
    """Positions int64 [B, T] that start again at each bound."""
    return torch.stack(
        [torch.cat([torch.arange(end - start) for start, end in itertools.pairwise(bounds)]) for bounds in rows]
    )


def documents_of_random_heads(
    make_config: Callable[..., ModelConfig], kv_heads: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[list[torch.Tensor], DocumentLayout]:
    """Queries [2, 17, 6, 8], keys and values [2, 17, K, 8], and the layout of ROWS."""
    generator = torch.Generator().manual_seed(kv_heads)
    shapes = [(2, 17, 6, 8), (2, 17, kv_heads, 8), (2, 17, kv_heads, 8)]
    heads = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    return heads, lay_out_documents(positions_of().to(device), make_config())


def attention_with_block_mask(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One call over whole rows [B, T, N, H], with the mask written out."""
    document = (positions_of() == 0).cumsum(dim=1)
    same = document[:, :, None] == document[:, None, :]
    mask = (same & torch.ones(17, 17, dtype=torch.bool).tril())[:, None]
    heads = [part.transpose(1, 2) for part in (queries, keys, values)]
    return functional.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def test_layout_holds_the_bounds_that_the_batch_tells(make_config: Callable[..., ModelConfig]) -> None:
    positions = positions_of()
    empty = np.empty((2, 17), dtype=np.int64)
    batch = Batch(empty, empty, positions.numpy(), sample_ids=empty[:, 0], epochs=empty[:, 0])
    layout = lay_out_documents(positions, make_config())
    assert layout.bounds.tolist() == batch.cu_seqlens().tolist()
    assert layout.longest == batch.max_seqlen() == 17 and layout.lengths == (5, 1, 11, 17)


def test_layout_refuses_a_row_that_goes_on_from_the_one_before(make_config: Callable[..., ModelConfig]) -> None:
    with pytest.raises(AssertionError, match="does not begin"):
        lay_out_documents(torch.arange(8).view(2, 4), make_config())


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_by_document_equals_one_call_with_the_mask_written_out(
    make_config: Callable[..., ModelConfig], kv_heads: int
) -> None:
    heads, layout = documents_of_random_heads(make_config, kv_heads)
    weights = torch.randn(2, 17, 6, 8, generator=torch.Generator().manual_seed(3))
    by_document, masked = isolated_attention(*heads, layout), attention_with_block_mask(*heads)
    torch.testing.assert_close(by_document, masked)
    gradients = [torch.autograd.grad((mixed * weights).sum(), heads) for mixed in (by_document, masked)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_varlen_kernel_takes_the_layout(make_config: Callable[..., ModelConfig], kv_heads: int) -> None:
    """The shapes and arguments alone: a meta tensor has no numbers. Those are the GPU test's."""
    heads, layout = documents_of_random_heads(make_config, kv_heads, dtype=torch.bfloat16)
    flat = [part.detach().flatten(0, 1).to("meta").requires_grad_() for part in heads]
    mixed = varlen_attention(flat[0], flat[1], flat[2], layout)
    assert mixed.shape == flat[0].shape
    mixed.sum().backward()
    assert flat[1].grad is not None and flat[1].grad.shape == flat[1].shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; the CPU twin is above")
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_varlen_kernel_equals_attention_by_document(make_config: Callable[..., ModelConfig], kv_heads: int) -> None:
    heads, layout = documents_of_random_heads(make_config, kv_heads, "cuda", torch.bfloat16)
    flat = [part.flatten(0, 1) for part in heads]
    mixed = [kernel(flat[0], flat[1], flat[2], layout) for kernel in (varlen_attention, attention_by_document)]
    # bf16 keeps 8 bits, and the kernels round in other places
    torch.testing.assert_close(mixed[0], mixed[1], atol=0.02, rtol=0.02)
    gradients = [torch.autograd.grad(one.float().square().sum(), heads) for one in mixed]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("kind", ["multi_head", "grouped_query", "multi_query"])
def test_each_document_of_a_packed_row_has_the_logits_it_has_alone(
    make_model: Callable[..., Llama], tokens: torch.Tensor, kind: str
) -> None:
    model = make_model(attention=kind)
    tokens = tokens[:2]
    packed, whole_rows = model(tokens, positions=positions_of()), model(tokens)
    for row, bounds in enumerate(ROWS):
        for start, end in itertools.pairwise(bounds):
            alone = model(tokens[row : row + 1, start:end])
            torch.testing.assert_close(packed[row, start:end], alone[0], atol=1e-5, rtol=0)
    assert not torch.allclose(packed[0, 6:], whole_rows[0, 6:], atol=1e-2), "without positions documents mix"


def test_recomputation_changes_no_gradient_and_the_layout_is_made_once_a_pass(
    make_config: Callable[..., ModelConfig], tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts = []

    def counting(*arguments: Any) -> DocumentLayout:
        layouts.append(lay_out_documents(*arguments))
        return layouts[-1]

    monkeypatch.setattr(llama, "lay_out_documents", counting)
    gradients = []
    for recompute_blocks in (False, True):
        model = Llama(make_config(), recompute_blocks=recompute_blocks)
        initialize_weights(model.named_parameters(), model.config, 0)
        model(tokens[:2], positions=positions_of()).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert len(layouts) == 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_generation_refuses_isolated_documents(make_model: Callable[..., Llama], tokens: torch.Tensor) -> None:
    model = make_model()
    with pytest.raises(AssertionError, match="training alone"):
        model(tokens[:2], KeyValueCache(model.config, 17, batch_size=2), positions_of())
