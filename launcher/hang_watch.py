"""Whether an attempt stands still, from what its ranks write down of their progress. Pure: no clock, no processes.

It looks at changes alone, never at the ages that the ranks' own clocks give: a clock that is set must not end a run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.backend import RankBeat
from launcher.step_pace import StepPace
from llama_dist.config import SupervisionConfig

STEP_PHASES = frozenset({"read", "train"})
STARTING_PHASES = frozenset({"starting", "build", "resume", "first step"})
ENDED_PHASES = frozenset({"stopped", "done"})
_LIMITED_BY_ITSELF = "copy to the store"  # the trainer gives it up after an hour; it has no progress to show meanwhile

_MEDIAN_STEPS = 3.0
# Sooner than the limit, so that with the time for looking and for the stacks the verdict comes within it.
_SOONER_SECONDS = 2.0
# Where nobody looked for longer, the supervisor itself was stopped or starved, and most likely the ranks with it.
_LONGEST_GAP_SECONDS = 5.0


@dataclass(frozen=True)
class Stall:
    """Ranks that stand still for too long."""

    ranks: tuple[int, ...]

    is_whole: bool
    """Whether that is every rank that has not ended; otherwise the others go on, or are within their time."""

    seconds: Mapping[int, float]
    """How long each rank of the attempt has stood still."""


class HangWatch:
    """Watches one attempt of `num_ranks` ranks."""

    def __init__(self, limits: SupervisionConfig, num_ranks: int) -> None:
        self._limits, self._num_ranks = limits, num_ranks
        self._pace = StepPace()
        self._clock, self._looked_at = 0.0, math.nan
        self._progress: dict[int, tuple[int, str, int]] = {}
        self._moved_at = dict.fromkeys(range(num_ranks), 0.0)
        self._stopped_at: dict[int, float] = {}

    def observe(self, beats: Mapping[int, RankBeat], now: float) -> Stall | None:
        """Take the newest beats, at `now` of any steady clock; answers a stall for as long as there is one."""
        if not math.isnan(self._looked_at):
            self._clock += min(now - self._looked_at, _LONGEST_GAP_SECONDS)
        self._looked_at = now
        for rank, beat in beats.items():
            self._note(rank, beat)
        steps = [beat.step for beat in beats.values() if beat.phase in STEP_PHASES | {"first step"}]
        if steps:
            self._pace.note(max(steps), self._clock)
        return self._stall(beats)

    def _note(self, rank: int, beat: RankBeat) -> None:
        progress = (beat.step, beat.phase, beat.micro_batch)
        if progress != self._progress.get(rank):
            self._progress[rank], self._moved_at[rank] = progress, self._clock
        if beat.process_state != "T":
            self._stopped_at.pop(rank, None)
        elif rank not in self._stopped_at:
            self._stopped_at[rank] = self._clock

    def _stall(self, beats: Mapping[int, RankBeat]) -> Stall | None:
        seconds = {rank: self._clock - moved_at for rank, moved_at in self._moved_at.items()}
        live = [rank for rank in range(self._num_ranks) if not has_ended(beats.get(rank))]
        # One rank in a slow phase may keep the others waiting: the longest time that any has holds for all.
        limit = max((self._limit_seconds(beats.get(rank)) for rank in live), default=math.inf)
        # A process that is gone does not hang: its agent tells how it ended, which takes a moment.
        late = tuple(rank for rank in live if seconds[rank] >= limit and not _is_gone(beats.get(rank)))
        if not late:
            stop_limit = _sooner(self._limits.hang_timeout_min_seconds)
            late = tuple(rank for rank, at in self._stopped_at.items() if self._clock - at >= stop_limit)
        return Stall(late, len(late) == len(live), seconds) if late else None

    def _limit_seconds(self, beat: RankBeat | None) -> float:
        limits = self._limits
        if beat is None or beat.phase in STARTING_PHASES:
            return _unlimited_if_none(limits.start_timeout_seconds)
        if beat.phase == _LIMITED_BY_ITSELF:
            return math.inf
        if beat.phase not in STEP_PHASES:
            return _unlimited_if_none(limits.slow_phase_timeout_seconds)
        median = self._pace.median_seconds
        if limits.hang_timeout_min_seconds is None:
            return math.inf
        if median is None:
            return _unlimited_if_none(limits.start_timeout_seconds)
        return _sooner(max(limits.hang_timeout_min_seconds, _MEDIAN_STEPS * median))


def has_ended(beat: RankBeat | None) -> bool:
    """Whether a rank has reached its end and is gone: it stands still by right."""
    return beat is not None and beat.phase in ENDED_PHASES and _is_gone(beat)


def _is_gone(beat: RankBeat | None) -> bool:
    return beat is not None and beat.process_state in ("", "Z")


def _sooner(seconds: float | None) -> float:
    return math.inf if seconds is None else max(seconds - _SOONER_SECONDS, seconds / 2)


def _unlimited_if_none(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
