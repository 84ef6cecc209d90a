"""A token is drawn from exactly the distribution that temperature, top-k and top-p leave."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_dist.generation.errors import GenerationError
from llama_dist.generation.sample import Sampling, draw_token, token_probabilities

# probabilities 0.1, 0.4, 0.2, 0.3
LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.3]).log() + 7


def kept(**options: float) -> list[float]:
    return [round(share, 4) for share in token_probabilities(LOGITS, Sampling(**options)).tolist()]


def test_the_default_is_the_models_own_distribution() -> None:
    assert kept() == [0.1, 0.4, 0.2, 0.3]


def test_temperature_0_takes_the_likeliest_and_the_lower_id_of_equals() -> None:
    assert kept(temperature=0) == [0, 1, 0, 0]
    equals = torch.tensor([0.0, 1.0, 1.0])
    assert token_probabilities(equals, Sampling(temperature=0)).tolist() == [0, 1, 0]
    assert draw_token(equals, Sampling(temperature=0), torch.Generator()) == 1


def test_temperature_raises_probabilities_to_its_inverse() -> None:
    powers = [share**2 for share in (0.1, 0.4, 0.2, 0.3)]
    assert kept(temperature=0.5) == [round(power / sum(powers), 4) for power in powers]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 0.5714, 0, 0.4286]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.01}, [0, 1, 0, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.65}, [0, 0.5714, 0, 0.4286]),
        ({"top_p": 0.75}, [0, 0.4444, 0.2222, 0.3333]),
        ({"top_p": 0.95}, [0.1, 0.4, 0.2, 0.3]),
        # of the two that top-k leaves, the first has 0.57: enough for 0.5
        ({"top_k": 2, "top_p": 0.5}, [0, 1, 0, 0]),
    ],
)
def test_top_k_and_top_p_keep_the_fewest_likeliest_tokens(options: dict[str, float], expected: list[float]) -> None:
    assert kept(**options) == expected


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    st.floats(0, 100),
    st.integers(0, 50),
    st.floats(0.001, 1),
)
def test_every_choice_leaves_a_distribution_that_holds_the_likeliest_token(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    values = torch.tensor(logits)
    shares = token_probabilities(values, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    assert math.isclose(float(shares.sum()), 1, abs_tol=1e-5)
    assert (shares >= 0).all()
    assert shares[values.argmax()] == shares.max() > 0
    assert not top_k or int((shares > 0).sum()) <= top_k


def test_draws_follow_the_distribution_and_repeat_with_the_seed() -> None:
    sampling = Sampling(temperature=0.5, top_k=3)

    def draws(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [draw_token(LOGITS, sampling, generator) for _ in range(4000)]

    first = draws(1)
    assert first == draws(1) != draws(2)
    shares = torch.bincount(torch.tensor(first), minlength=4).double() / 4000
    # 4000 draws: the standard deviation of a share is below 0.008
    torch.testing.assert_close(shares, token_probabilities(LOGITS, sampling), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1: needs"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_k": -1}, "top-k -1"),
        ({"top_p": 0.0}, "top-p 0.0"),
        ({"top_p": 1.1}, "top-p 1.1"),
        ({"top_p": math.nan}, "top-p nan"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(GenerationError, match=message) as caught:
        Sampling(**options)
    assert caught.value.exit_code == 78


def test_a_diverged_model_is_told_instead_of_drawn_from() -> None:
    with pytest.raises(GenerationError, match="have diverged"):
        draw_token(torch.tensor([0.0, math.nan]), Sampling(), torch.Generator())
