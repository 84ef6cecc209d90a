"""Decoding with cached keys and values equals one forward pass over the whole text."""

from collections.abc import Callable

import pytest
import torch

from llama_dist.model import KeyValueCache, Llama


@pytest.mark.parametrize("attention", ["multi_head", "grouped_query", "multi_query"])
@pytest.mark.parametrize("pieces", [[17], [1] * 17, [10, 1, 1, 1, 4], [5, 6, 6]])
def test_cached_decode_equals_the_full_forward_pass(
    make_model: Callable[..., Llama], tokens: torch.Tensor, attention: str, pieces: list[int]
) -> None:
    model = make_model(attention=attention)
    cache = KeyValueCache(model.config, 20, batch_size=3)
    with torch.inference_mode():
        logits = torch.cat([model(piece, cache) for piece in tokens.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(logits, model(tokens), atol=1e-5, rtol=0)
    assert cache.num_positions == 17


def test_cache_and_rotary_tables_end_where_they_say(make_model: Callable[..., Llama], tokens: torch.Tensor) -> None:
    model = make_model()
    with torch.inference_mode(), pytest.raises(AssertionError, match="cache of 16 positions is asked for 17"):
        model(tokens, KeyValueCache(model.config, 16, batch_size=3))
    with pytest.raises(AssertionError, match="position 33 is past the model's longest, 32"):
        model(torch.zeros(1, 33, dtype=torch.int64))
