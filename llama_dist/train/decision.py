"""What the ranks decide together once a step: to go on, to save, or to save and leave. Saves and stops nothing itself.

Each rank says what it was asked and how long its saves take; one small collective takes the largest of each, so that
all ranks see the same numbers and decide alike.
"""

import math
import time
from collections import deque
from dataclasses import astuple, dataclass, replace

import torch
from torch import distributed

from llama_dist.checkpoint.manifest import SaveKind
from llama_dist.config import RunConfig
from llama_dist.runtime.stop import StopRequest
from llama_dist.train.attempt import Attempt
from llama_dist.train.keeper import CheckpointKeeper
from llama_dist.train.save_request import SaveRequest

# A save takes longer than the last one now and then; a limit that is missed costs the whole save.
_SAVE_TIME_MARGIN = 1.5

# Of the wall-clock limit, what a save may be guessed to take that was not measured yet: the rest is there to train.
_LARGEST_GUESS = 0.25

_SECONDS_PER_MINUTE = 60.0
_NUM_STEPS_REMEMBERED = 100


@dataclass(frozen=True)
class Vote:
    """What one rank knows, or the largest of what all know. Numbers alone: they travel as one tensor."""

    stop_is_asked: float = 0.0
    """1 where a signal asked this rank to stop."""

    seconds_since_asked: float = 0.0

    limit_is_near: float = 0.0
    """1 where the attempt must save now to have left before its wall-clock limit, by the clock of any rank."""

    save_is_asked: float = 0.0
    """1 where a person asked for a checkpoint."""

    interval_is_over: float = 0.0
    """1 where `checkpoint.interval_minutes` have passed. Rank 0's clock decides."""

    save_seconds: float = 0.0
    """Time that the last save took, from its beginning until the checkpoint existed; 0 before the first."""

    write_seconds_left: float = 0.0
    """Time that the save under way will still take; 0 if there is none."""


@dataclass(frozen=True)
class Decision:
    """What all ranks do now, and for the person who reads the log, why and how."""

    save: SaveKind | None = None
    leave: bool = False
    because: str = ""
    how: str = ""


def decide(vote: Vote, grace_seconds: float) -> Decision:
    """Decide from the largest of all votes, and the time that a stopped run may take."""
    if vote.stop_is_asked:
        return _decide_stop(vote, grace_seconds - vote.seconds_since_asked)
    if vote.limit_is_near:
        return Decision("stop", leave=True, because="the wall-clock limit is near", how="saving now")
    if vote.save_is_asked:
        return Decision("asked")
    return Decision("clock") if vote.interval_is_over else Decision()


def _decide_stop(vote: Vote, seconds_left: float) -> Decision:
    """Save what was trained, unless that would endanger the save that is under way."""
    needed = vote.write_seconds_left + vote.save_seconds
    why, grace = "asked to stop", f"{seconds_left:.0f} s of grace"
    if vote.write_seconds_left and needed > seconds_left:
        how = (
            f"{grace}, a save takes {vote.save_seconds:.0f} s and the one under way {vote.write_seconds_left:.0f} s "
            "more: finishing that one alone"
        )
        return Decision(None, leave=True, because=why, how=how)
    takes = f", a save takes {vote.save_seconds:.1f} s" if vote.save_seconds else ""
    return Decision("stop", leave=True, because=why, how=f"{grace}{takes}: saving now")


class Decisions:
    """Collects this rank's vote and takes the decision of all. Collective."""

    def __init__(
        self, config: RunConfig, attempt: Attempt, stop: StopRequest, keeper: CheckpointKeeper, request: SaveRequest
    ) -> None:
        self._config, self._stop, self._keeper, self._request = config, stop, keeper, request
        self._is_rank_0 = attempt.world.rank == 0
        limit = config.supervision.wall_clock_limit_minutes
        self._limit_seconds = math.inf if limit is None else limit * _SECONDS_PER_MINUTE
        self._must_have_left_at = None if limit is None else attempt.started + self._limit_seconds
        self._last_save_at = time.monotonic()
        self._step_began_at: float | None = None
        self._step_seconds: deque[float] = deque([0.0], maxlen=_NUM_STEPS_REMEMBERED)

    def take(self) -> Decision:
        """Collective; once a step, after its data was read and before it is trained on."""
        now = time.monotonic()
        if self._step_began_at is not None:
            # With evaluation and waits for a save: each may come before the limit.
            self._step_seconds.append(now - self._step_began_at)
        self._step_began_at = now
        return decide(_largest_of_all(self._vote(now)), self._config.supervision.stop_grace_seconds)

    def note_save(self) -> None:
        """Count from now: a save begins."""
        self._last_save_at = time.monotonic()

    def any_stop(self) -> bool:
        """Collective. Whether any rank must stop, asked to or near the limit: asked between the parts of what takes
        long."""
        mine = Vote(stop_is_asked=float(self._stop.is_made), limit_is_near=self._limit_is_near(time.monotonic()))
        everyone = _largest_of_all(mine)
        return bool(everyone.stop_is_asked or everyone.limit_is_near)

    def seconds_until_limit(self) -> float | None:
        """Time until the wall-clock limit is near: one that waits longer must be woken. None without a limit."""
        if self._must_have_left_at is None:
            return None
        return self._must_have_left_at - time.monotonic() - self._seconds_to_leave()

    def _vote(self, now: float) -> Vote:
        vote = Vote(
            stop_is_asked=float(self._stop.is_made),
            seconds_since_asked=self._stop.seconds_ago,
            limit_is_near=self._limit_is_near(now),
            save_is_asked=float(self._stop.take_save_request()),
            save_seconds=self._keeper.last_save_seconds or 0.0,
            write_seconds_left=self._keeper.write_seconds_left,
        )
        return self._with_clocks(vote, now) if self._is_rank_0 else vote

    def _with_clocks(self, vote: Vote, now: float) -> Vote:
        minutes = self._config.checkpoint.interval_minutes
        is_over = minutes is not None and now - self._last_save_at >= minutes * _SECONDS_PER_MINUTE
        return replace(
            vote,
            save_is_asked=float(vote.save_is_asked or self._request.take()),
            interval_is_over=float(is_over),
        )

    def _limit_is_near(self, now: float) -> float:
        if self._must_have_left_at is None:
            return 0.0
        is_near = self._must_have_left_at - now < self._seconds_to_leave()
        return float(is_near or self._stop.limit_is_reached)

    def _seconds_to_leave(self) -> float:
        """Time for one more step, and the saves after it."""
        save_seconds = self._keeper.write_seconds_left + self._expected_save_seconds()
        return max(self._step_seconds) + _SAVE_TIME_MARGIN * save_seconds

    def _expected_save_seconds(self) -> float:
        """Time that the last save took; before the first of this attempt, the run's last, or half of what a stop may
        take."""
        measured = self._keeper.last_save_seconds
        if measured is not None:
            return measured
        former = self._keeper.former_save_seconds
        guess = self._config.supervision.stop_grace_seconds / 2 if former is None else former
        return min(guess, _LARGEST_GUESS * self._limit_seconds)


def _largest_of_all(vote: Vote) -> Vote:
    """Collective. Per number the largest that any rank gave."""
    numbers = torch.tensor(astuple(vote), dtype=torch.float64)
    distributed.all_reduce(numbers, op=distributed.ReduceOp.MAX)
    return Vote(*numbers.tolist())
