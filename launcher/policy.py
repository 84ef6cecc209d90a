"""What follows from the end of an attempt: done, try again, or stop and say why. Pure decisions; no clock, no files."""

import signal
from dataclasses import dataclass
from typing import Literal

from llama_dist.config import SupervisionConfig
from llama_dist.exit_codes import ExitCode

# Which code speaks for the attempt where ranks differ: a cause comes before what it did to the others.
_FINAL_CODES = (ExitCode.BAD_INPUT, ExitCode.OUR_BUG, ExitCode.STORAGE)
_MEANINGS = {
    ExitCode.BAD_INPUT: "the config or the data cannot work",
    ExitCode.OUR_BUG: "a bug in llama-dist",
    ExitCode.STORAGE: "a disk or store failed, or no checkpoint is good",
    ExitCode.STOPPED: "asked to stop, saved first",
    ExitCode.RETRY: "a peer or the network was lost",
}


Manifests = frozenset[tuple[int, int]]
"""The checkpoints there are: step, and the time in nanoseconds at which the manifest was written."""


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended. `status` is of its process: negative for a signal, None where nobody saw it."""

    rank: int
    status: int | None
    recorded_code: int | None
    reason: str
    step: int | None
    host: str = ""
    lost_because: str = ""
    """Why its node is lost; empty where it is not."""

    @property
    def code(self) -> int | None:
        """Exit code: what the rank wrote down, or else what its process left; None for a killed or lost rank."""
        if self.recorded_code is not None:
            return self.recorded_code
        return self.status if self.status is not None and self.status >= 0 else None


@dataclass(frozen=True)
class Outcome:
    """One attempt after its end. `first_failed_rank` is the one that the agent saw fail first."""

    agent_status: int
    ranks: tuple[RankEnd, ...]
    first_failed_rank: int | None
    manifests_before: Manifests
    manifests_after: Manifests
    stop_requested: bool
    hang: str = ""
    """Who hung, where the attempt was ended for that."""

    is_resized: bool = False
    """Whether its ranks were asked to leave so that more nodes can join."""

    @property
    def step_before(self) -> int | None:
        """Newest checkpoint before the attempt."""
        return max((step for step, _ in self.manifests_before), default=None)

    @property
    def step_after(self) -> int | None:
        """Newest checkpoint after the attempt."""
        return max((step for step, _ in self.manifests_after), default=None)

    @property
    def made_progress(self) -> bool:
        """Whether the attempt saved a checkpoint, be it of an older step than a damaged one that lies there still."""
        return bool(self.manifests_after - self.manifests_before)


@dataclass(frozen=True)
class Retry:
    """Start another attempt after a wait."""

    delay_seconds: float
    attempts_without_progress: int
    reason: str


@dataclass(frozen=True)
class Finish:
    """Start no other attempt. `culprit` is the rank whose log tells more."""

    state: Literal["done", "failed", "stopped"]
    exit_code: int
    reason: str
    culprit: int | None = None


def decide(outcome: Outcome, attempts_without_progress: int, limits: SupervisionConfig) -> Retry | Finish:
    """Decide on exit codes and progress alone; `attempts_without_progress` counts those before this one."""
    if outcome.agent_status == 0:
        return Finish("done", ExitCode.DONE, "reached its last step")
    for code in _final_codes(outcome):
        culprit = next((end for end in _first_failed_first(outcome) if _final_code(end) == code), None)
        if culprit:
            return Finish("failed", code, describe(culprit), culprit.rank)
    if outcome.is_resized and not outcome.stop_requested and _all_left(outcome):
        return Retry(0.0, attempts_without_progress, "nodes have come back")
    if _was_stopped(outcome):
        return Finish("stopped", ExitCode.STOPPED, _stop_reason(outcome))
    cause = cause_of(outcome)
    why = outcome.hang or _cause_text(cause)
    without_progress = 0 if outcome.made_progress else attempts_without_progress + 1
    if without_progress >= limits.max_attempts_without_progress:
        reason = f"no newer checkpoint in {without_progress} attempt(s); last: {why}"
        return Finish("failed", ExitCode.RETRY, reason, cause.rank if cause else None)
    return Retry(backoff_seconds(without_progress, limits), without_progress, why)


def backoff_seconds(attempts_without_progress: int, limits: SupervisionConfig) -> float:
    """Return the first wait, doubled with each further attempt that brought nothing, up to the cap."""
    doublings = min(max(0, attempts_without_progress - 1), 64)  # 2^64 s is past any cap, and fits a float
    return float(min(limits.max_backoff_seconds, limits.first_backoff_seconds * 2**doublings))


def cause_of(outcome: Outcome) -> RankEnd | None:
    """Return the rank that most likely took the others with it.

    A killed rank comes before those that only lost their peer; SIGTERM is how the agent ends the survivors.
    """
    ends = _first_failed_first(outcome)
    killed = [end for end in ends if end.status is not None and end.status < 0 and end.recorded_code is None]
    by_others = [end for end in ends if _was_killed(end)]
    silent = [end for end in ends if end.code is None]
    ended = [end for end in ends if end.code not in (None, ExitCode.DONE)]
    lost = [end for end in ends if end.lost_because]
    return next(iter([*lost, *by_others, *ended, *killed, *silent]), None)


def describe(end: RankEnd) -> str:
    """Return one line on how a rank ended, for example `rank 1 was killed by SIGKILL at step 57`."""
    at_step = "" if end.step is None else f" at step {end.step}"
    if end.lost_because:
        return f"rank {end.rank} was lost{at_step} with its node: {end.lost_because}"
    if end.recorded_code is not None or (end.status is not None and end.status > 0):
        return f"rank {end.rank} ended with code {end.code} ({_meaning(end.code)}){at_step}{_colon(end.reason)}"
    if end.status is not None and end.status < 0:
        return f"rank {end.rank} was killed by {_signal_name(-end.status)}{at_step}"
    return f"rank {end.rank} was lost{at_step} and left no exit record"


def _first_failed_first(outcome: Outcome) -> list[RankEnd]:
    return sorted(outcome.ranks, key=lambda end: (end.rank != outcome.first_failed_rank, end.rank))


def _final_codes(outcome: Outcome) -> tuple[ExitCode, ...]:
    """Return the codes that end the run. Beside a rank that was killed first, a bug is most likely its echo."""
    was_killed_first = any(_was_killed(end) for end in outcome.ranks if end.rank == outcome.first_failed_rank)
    return tuple(code for code in _FINAL_CODES if code != ExitCode.OUR_BUG or not was_killed_first)


def _was_killed(end: RankEnd) -> bool:
    """Whether a signal that the agent does not send first ended the rank; SIGTERM is how it ends the survivors."""
    return end.recorded_code is None and end.status is not None and end.status < 0 and end.status != -signal.SIGTERM


def _final_code(end: RankEnd) -> int | None:
    """Return the code that ends the run, if any. An unknown one means that not even the process edge was reached."""
    if end.code is None or end.code in (ExitCode.DONE, ExitCode.RETRY, ExitCode.STOPPED):
        return None
    return end.code if end.code in _FINAL_CODES else ExitCode.OUR_BUG


def _was_stopped(outcome: Outcome) -> bool:
    """Whether all ranks agreed to stop; one that reports it while a peer is missing only lost that peer."""
    return outcome.stop_requested or _all_left(outcome)


def _all_left(outcome: Outcome) -> bool:
    """Whether every rank ended by itself, and not all of them at the last step."""
    codes = {end.code for end in outcome.ranks}
    return ExitCode.STOPPED in codes and codes <= {ExitCode.STOPPED, ExitCode.DONE}


def _stop_reason(outcome: Outcome) -> str:
    saved = "no checkpoint yet" if outcome.step_after is None else f"newest checkpoint: step {outcome.step_after}"
    if all(end.code in (ExitCode.STOPPED, ExitCode.DONE) for end in outcome.ranks):
        why = next(
            (end.reason for end in outcome.ranks if end.code == ExitCode.STOPPED and end.reason), "asked to stop"
        )
        return f"{why}; {saved}"
    return f"asked to stop, but not every rank ended by itself; {saved}"


def _cause_text(cause: RankEnd | None) -> str:
    return describe(cause) if cause else "the agent ended before it started a rank"


def _meaning(code: int | None) -> str:
    return next((text for known, text in _MEANINGS.items() if known == code), "an error before the trainer was up")


def _colon(reason: str) -> str:
    """Return `: reason`; of a traceback its last line, which names the error."""
    lines = reason.strip().splitlines()
    text = lines[-1] if lines and lines[0].startswith("Traceback") else reason.strip()
    return f": {text}" if text else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
