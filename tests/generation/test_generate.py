"""Cached decoding chooses what full forward passes choose, and stops where it must."""

from typing import Any

import pytest
import torch

from llama_dist.generation.errors import GenerationError
from llama_dist.generation.generate import GeneratedToken, generate_tokens
from llama_dist.generation.sample import Sampling, draw_token

GREEDY = Sampling(temperature=0)


def generate(run: Any, prompt: list[int], sampling: Sampling = GREEDY, **options: Any) -> list[GeneratedToken]:
    defaults = {"max_new_tokens": 20, "vocabulary_size": run.tokenizer.vocabulary_size}
    return list(generate_tokens(run.model, prompt, sampling, **(defaults | options)))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, top_k=40, top_p=0.95)])
def test_cached_generation_equals_a_full_forward_pass_for_each_token(learned_run: Any, sampling: Sampling) -> None:
    prompt = learned_run.tokenizer.encode("def add")
    ids, generator = list(prompt), torch.Generator().manual_seed(11)
    for token in generate(learned_run, prompt, sampling, seed=11):
        with torch.inference_mode():
            logits = learned_run.model(torch.tensor([ids]))[0, -1, : learned_run.tokenizer.vocabulary_size]
        assert draw_token(logits, sampling, generator) == token.token_id
        assert token.log_probability == pytest.approx(float(torch.log_softmax(logits, dim=0)[token.token_id]), abs=1e-4)
        ids.append(token.token_id)
    assert len(ids) == len(prompt) + 20


def test_a_text_known_by_heart_is_continued_to_its_end_and_stops_at_eos(learned_run: Any) -> None:
    ids = learned_run.tokenizer.encode(learned_run.text)
    tokens = generate(learned_run, ids[:3], max_new_tokens=200, eos_id=learned_run.tokenizer.eos_id)
    assert [token.token_id for token in tokens] == [*ids[3:], learned_run.tokenizer.eos_id]
    assert all(token.log_probability > -1 for token in tokens)


def test_generation_ends_at_the_models_longest_sequence(learned_run: Any) -> None:
    prompt = learned_run.tokenizer.encode("def add")
    assert len(generate(learned_run, prompt, max_new_tokens=10_000)) == 80 - len(prompt)


def test_ids_that_the_tokenizer_lacks_are_never_generated(learned_run: Any) -> None:
    tokens = generate(learned_run, [5], Sampling(temperature=50.0), max_new_tokens=79, vocabulary_size=7)
    assert {token.token_id for token in tokens} <= set(range(7))
    assert len({token.token_id for token in tokens}) > 3, "at this temperature all seven are about as likely"


def test_the_seed_decides_the_text(learned_run: Any) -> None:
    texts = [generate(learned_run, [5], Sampling(temperature=3.0), seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_new_tokens", "message"),
    [
        (0, 5, "the prompt is 0 tokens"),
        (80, 5, "the prompt is 80 tokens, the model's longest sequence 80: shorten it to at most 79"),
        (3, 0, "max-new-tokens 0"),
    ],
)
def test_a_prompt_without_room_is_refused(
    learned_run: Any, num_prompt_tokens: int, max_new_tokens: int, message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        generate(learned_run, [5] * num_prompt_tokens, max_new_tokens=max_new_tokens)
    if num_prompt_tokens == 80:
        assert len(generate(learned_run, [5] * 79)) == 1
