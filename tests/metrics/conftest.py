"""Builders of step records that the metrics tests share."""

from collections.abc import Callable

import pytest

from llama_dist.metrics import StepMetrics


@pytest.fixture
def make_step() -> Callable[..., StepMetrics]:
    """Return a builder of plausible steps; every value depends on the step."""

    def build(step: int, **changes: object) -> StepMetrics:
        values: dict[str, object] = {
            "step": step,
            "tokens_seen": step * 1024,
            "loss": 8.0 / step + 1.0,
            "learning_rate": 1e-3 * step,
            "gradient_norm": 1.0 + step / 10,
            "tokens_per_second": 2000.0 + step,
            "step_seconds": 0.5,
            "memory_gib": 1.25,
            "held_out_loss": 7.5 if step % 5 == 0 else None,
        }
        return StepMetrics(**(values | changes))  # type: ignore[arg-type]

    return build
