"""How long the steps of one attempt take, from how far its ranks are. Pure."""

import statistics
from collections import deque

MIN_STEPS_MEASURED = 3
_NUM_REMEMBERED = 101  # old steps tell nothing about a run whose sequences grew


class StepPace:
    """Measures steps between observations; those that pass unseen share their time evenly."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._reached_at: float | None = None
        self._seconds: deque[float] = deque(maxlen=_NUM_REMEMBERED)

    def note(self, step: int, now: float) -> None:
        """Note that the furthest rank has done `step` updates."""
        if self._step is None:
            self._step = step
        elif step > self._step:
            num_steps = step - self._step
            # The first step that is seen to end began before we looked, and may have compiled: it is no measure.
            if self._reached_at is not None:
                self._seconds.extend([(now - self._reached_at) / num_steps] * min(num_steps, MIN_STEPS_MEASURED))
            self._step, self._reached_at = step, now

    @property
    def median_seconds(self) -> float | None:
        """Median of a step; None before three were measured."""
        return statistics.median(self._seconds) if len(self._seconds) >= MIN_STEPS_MEASURED else None
