"""The learning rate as a pure function of the step, so that a resume restores nothing.

Steps count from 0: `step` is the number of updates done before. With W warm-up steps the rate rises linearly from
peak / W at step 0 to the peak at step W - 1 (without warm-up step 0 has the peak), then falls so that the last step,
num_steps - 1, has peak x final_learning_rate_ratio.
"""

import math

from llama_dist.config import OptimizerConfig, ScheduleConfig


def learning_rate(step: int, optimizer: OptimizerConfig, schedule: ScheduleConfig, num_steps: int) -> float:
    """Learning rate of update `step` of `num_steps`."""
    assert 0 <= step < num_steps, f"step {step} is not in a run of {num_steps} steps"
    peak = optimizer.learning_rate
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    final = schedule.final_learning_rate_ratio
    return peak * (final + (1.0 - final) * _share_left(step, schedule, num_steps))


def _share_left(step: int, schedule: ScheduleConfig, num_steps: int) -> float:
    """Fall from 1 at the peak to 0 at the last step, in the shape that `schedule` names."""
    last = num_steps - 1
    peak_step = max(schedule.warmup_steps - 1, 0)
    if schedule.kind == "wsd":
        # Stable until decay_steps before the end, then linear (arXiv 2405.18392 finds it as good as the paper's).
        peak_step = last - (schedule.decay_steps or 0)
    if step <= peak_step:
        return 1.0
    progress = (step - peak_step) / (last - peak_step)
    return 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1.0 - progress
