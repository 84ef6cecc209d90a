"""Rotation keeps lengths, sees only distances, and its tables survive casts, meta devices and inference mode."""

from collections.abc import Callable

import torch

from llama_dist.model import Llama, next_token_loss
from llama_dist.model.rotary import rotary_tables, rotate

CPU = torch.device("cpu")


def test_product_of_query_and_key_depends_on_their_distance_alone() -> None:
    cosines, sines = rotary_tables(16, 100.0, 64, CPU)
    query, key = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def product(query_position: int, key_position: int) -> torch.Tensor:
        turned = [
            rotate(vector, cosines[position : position + 1], sines[position : position + 1])
            for vector, position in ((query, query_position), (key, key_position))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(7, 3), product(60, 56))
    assert not torch.isclose(product(7, 3), product(7, 4))


def test_rotation_keeps_the_length_and_leaves_position_0_alone() -> None:
    cosines, sines = rotary_tables(16, 10000.0, 32, CPU)
    heads = torch.randn(2, 32, 3, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(heads, cosines, sines)
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert torch.equal(turned[:, 0], heads[:, 0])
    assert not torch.allclose(turned[:, 1], heads[:, 1])


def test_pairs_are_half_a_head_apart() -> None:
    cosines, sines = rotary_tables(8, 10000.0, 4, CPU)
    unit = torch.zeros(1, 4, 1, 8)
    unit[..., 1] = 1
    assert rotate(unit, cosines, sines)[0, 3, 0].nonzero().flatten().tolist() == [1, 5]


def test_tables_stay_fp32_in_a_bf16_model(make_model: Callable[..., Llama], tokens: torch.Tensor) -> None:
    model = make_model().to(torch.bfloat16)
    model(tokens)
    attention = model.layers[0].attention
    tables = attention._tables(0, 17, model.embed.weight)
    assert {table.dtype for table in tables} == {torch.float32}
    assert not list(model.buffers())


def test_model_trains_after_its_tables_were_made_in_inference_mode(
    make_model: Callable[..., Llama], tokens: torch.Tensor
) -> None:
    rotary_tables.cache_clear()
    model = make_model()
    with torch.inference_mode():
        model(tokens)
    next_token_loss(model(tokens)[:, :-1], tokens[:, 1:]).backward()
    assert model.layers[0].attention.wq.weight.grad is not None


def test_model_built_on_the_meta_device_gives_the_same_logits_once_filled(
    make_model: Callable[..., Llama], tokens: torch.Tensor
) -> None:
    model = make_model()
    with torch.device("meta"):
        other = Llama(model.config)
    other.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(other(tokens), model(tokens))
