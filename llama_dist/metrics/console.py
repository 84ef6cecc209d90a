"""The line that rank 0 prints for each step: plain text, one line, fixed places. Prints nothing itself."""

from llama_dist.metrics.record import StepMetrics

# Weight of the newest step in the running mean that the time left is computed from: about the last 20 steps.
_NEWEST_STEP_WEIGHT = 0.1

# A wait for data is shown above this share of the step: below it there is nothing to gain.
_LEAST_STALL_SHARE = 0.01


class StepLine:
    """Formats the steps of one attempt; keeps the running step time, for the time left."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self._mean_step_seconds: float | None = None

    def format(self, metrics: StepMetrics) -> str:
        """Return the line of one step, for example `step   7/200 | loss 5.1234 | lr 3.00e-04 | ...`."""
        self._update_mean(metrics.step_seconds)
        assert self._mean_step_seconds is not None
        left = max(self.num_steps - metrics.step, 0) * self._mean_step_seconds
        parts = [
            f"step {metrics.step:>{len(str(self.num_steps))}}/{self.num_steps}",
            f"loss {metrics.loss:7.4f}",
            f"lr {metrics.learning_rate:.2e}",
            f"grad norm {metrics.gradient_norm:7.3f}",
            f"{metrics.tokens_per_second:>9,.0f} tokens/s",
            f"{format_count(metrics.tokens_seen):>7} tokens seen",
            f"{metrics.memory_gib:6.2f} GiB",
            f"left {format_duration(left)}",
        ]
        if metrics.held_out_loss is not None:
            parts.append(f"held-out loss {metrics.held_out_loss:.4f}")
        parts += [f"{name} {loss:.4f}" for name, loss in metrics.named_held_out_losses.items()]
        if metrics.data_stall_seconds > _LEAST_STALL_SHARE * metrics.step_seconds:
            parts.append(f"data stall {metrics.data_stall_seconds:.3f} s")
        if metrics.skipped:
            parts.append("skipped: fp16 overflow")
        return " | ".join(parts)

    def _update_mean(self, seconds: float) -> None:
        if self._mean_step_seconds is None:
            self._mean_step_seconds = seconds
        else:
            self._mean_step_seconds += _NEWEST_STEP_WEIGHT * (seconds - self._mean_step_seconds)


def format_count(count: int) -> str:
    """Return a count with three digits and K, M, B or T: 1_234_567 is `1.23M`."""
    value = float(count)
    for unit in ("", "K", "M", "B"):
        if value < 999.5:
            return f"{value:.0f}" if not unit else f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}T"


def format_duration(seconds: float) -> str:
    """Return hours, minutes and seconds as `h:mm:ss`, days before them where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}"
    return f"{days}d {clock}" if days else clock
