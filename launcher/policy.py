"""What follows from the end of an attempt: done, try again, or stop and say why. Pure decisions; no clock, no files."""

import signal
from dataclasses import dataclass, replace
from typing import Literal

from launcher.causes import (
    Cause,
    advice_on,
    blamed,
    cause_of_attempt,
    cause_of_end,
    is_end_of_agent,
    is_out_of_memory,
    last_line,
)
from launcher.ends import Outcome, RankEnd
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
_MOST_KILLS_FOR_MEMORY = 1  # another program may have taken the memory once; twice, it is too little


@dataclass(frozen=True)
class Past:
    """What counts of the attempts of this launch that have ended."""

    attempts: int = 0
    without_progress: int = 0
    """Attempts in a row that saved no checkpoint."""

    killed_for_memory: int = 0
    """Those of them that the kernel's out-of-memory killer ended."""


@dataclass(frozen=True)
class Retry:
    """Start another attempt after a wait, with this past."""

    delay_seconds: float
    past: Past
    reason: str
    cause: Cause


@dataclass(frozen=True)
class Finish:
    """Start no other attempt. `culprit` is the rank whose log tells more."""

    state: Literal["done", "failed", "stopped"]
    exit_code: int
    reason: str
    culprit: int | None = None

    cause: Cause | None = None
    """None for a run that is done, or was stopped."""


def decide(outcome: Outcome, past: Past, limits: SupervisionConfig) -> Retry | Finish:
    """Decide on exit codes, causes and progress alone; `past` is that before this attempt."""
    if outcome.agent_status == 0 or outcome.all_reached_the_end:
        return Finish("done", ExitCode.DONE, "reached its last step")
    return _final(outcome) or _resized(outcome, past) or _stopped(outcome) or _retry_or_give_up(outcome, past, limits)


def backoff_seconds(attempts_without_progress: int, limits: SupervisionConfig) -> float:
    """Return the first wait, doubled with each further attempt that brought nothing, up to the cap."""
    doublings = min(max(0, attempts_without_progress - 1), 64)  # 2^64 s is past any cap, and fits a float
    return float(min(limits.max_backoff_seconds, limits.first_backoff_seconds * 2**doublings))


def describe(end: RankEnd, *, with_host: bool = False) -> str:
    """Return one line on how a rank ended, for example `rank 1 was killed by SIGKILL at step 57`."""
    who = f"rank {end.rank} on {end.host}" if with_host and end.host else f"rank {end.rank}"
    at_step = "" if end.step is None else f" at step {end.step}"
    if end.lost_because:
        return f"{who} was lost{at_step} with its node: {end.lost_because}"
    if end.recorded_code is not None or (end.status is not None and end.status > 0):
        meaning = "out of memory" if is_out_of_memory(end) else _meaning(end.code)
        return f"{who} ended with code {end.code} ({meaning}){at_step}{_colon(end.reason)}"
    if end.status is not None and end.status < 0:
        return f"{who} was killed by {_signal_name(-end.status)}{at_step}"
    return f"{who} was lost{at_step} and left no exit record"


def _final(outcome: Outcome) -> Finish | None:
    """Return what no further attempt can mend."""
    starved = next((end for end in outcome.first_failed_first() if is_out_of_memory(end)), None)
    if starved and not outcome.nodes_change:
        return _failed(outcome, starved, ExitCode.BAD_INPUT)
    judged = [end for end in outcome.first_failed_first() if not is_out_of_memory(end)]
    for code in _final_codes(outcome):
        culprit = next((end for end in judged if _final_code(end) == code), None)
        if culprit:
            return _failed(outcome, culprit, code)
    return None


def _resized(outcome: Outcome, past: Past) -> Retry | None:
    """Return the next attempt, at once, of a run whose ranks left so that more nodes can join."""
    if outcome.is_resized and not outcome.stop_requested and outcome.all_went_when_asked:
        return Retry(0.0, replace(past, attempts=past.attempts + 1), "nodes have come back", Cause.RESIZED)
    return None


def _stopped(outcome: Outcome) -> Finish | None:
    """Return the end of a run that was stopped, where it was asked for or all ranks agreed on it."""
    if outcome.stop_requested or outcome.all_left:
        return Finish("stopped", ExitCode.STOPPED, _stop_reason(outcome))
    return None


def _retry_or_give_up(outcome: Outcome, past: Past, limits: SupervisionConfig) -> Retry | Finish:
    culprit, cause = blamed(outcome), cause_of_attempt(outcome)
    now = _past_after(outcome, past, cause)
    told = _with_advice(outcome.hang or _cause_text(outcome, culprit, cause), cause)
    rank = culprit.rank if culprit else None
    if now.killed_for_memory > _MOST_KILLS_FOR_MEMORY:
        return Finish("failed", ExitCode.BAD_INPUT, f"{told} ({now.killed_for_memory} times in a row)", rank, cause)
    if now.without_progress >= limits.max_attempts_without_progress:
        reason = f"no newer checkpoint in {now.without_progress} attempt(s); last: {told}"
        return Finish("failed", ExitCode.RETRY, reason, rank, cause)
    if limits.max_attempts is not None and now.attempts >= limits.max_attempts:
        reason = f"its {now.attempts} attempt(s) are used up (supervision.max_attempts); last: {told}"
        return Finish("failed", ExitCode.RETRY, reason, rank, cause)
    return Retry(backoff_seconds(now.without_progress, limits), now, told, cause)


def _past_after(outcome: Outcome, past: Past, cause: Cause) -> Past:
    now = Past(attempts=past.attempts + 1)
    if outcome.made_progress:
        return replace(now, killed_for_memory=int(cause == Cause.KILLED_FOR_MEMORY))
    return replace(
        now,
        without_progress=past.without_progress + 1,
        killed_for_memory=past.killed_for_memory + int(cause == Cause.KILLED_FOR_MEMORY),
    )


def _failed(outcome: Outcome, culprit: RankEnd, code: ExitCode) -> Finish:
    cause = cause_of_end(culprit, outcome)
    text = describe(culprit, with_host=outcome.num_hosts > 1)
    return Finish("failed", code, _with_advice(text, cause), culprit.rank, cause)


def _final_codes(outcome: Outcome) -> tuple[ExitCode, ...]:
    """Return the codes that end the run. Beside a rank that was killed or lost first, a bug is most likely its echo."""
    was_killed_first = any(end.was_killed for end in outcome.ranks if end.rank == outcome.first_failed_rank)
    is_echo = was_killed_first or any(end.lost_because for end in outcome.ranks)
    return tuple(code for code in _FINAL_CODES if code != ExitCode.OUR_BUG or not is_echo)


def _final_code(end: RankEnd) -> int | None:
    """Return the code that ends the run, if any. An unknown one means that not even the process edge was reached."""
    if end.code is None or end.code in (ExitCode.DONE, ExitCode.RETRY, ExitCode.STOPPED):
        return None
    return end.code if end.code in _FINAL_CODES else ExitCode.OUR_BUG


def _stop_reason(outcome: Outcome) -> str:
    saved = "no checkpoint yet" if outcome.step_after is None else f"newest checkpoint: step {outcome.step_after}"
    if all(end.code in (ExitCode.STOPPED, ExitCode.DONE) for end in outcome.ranks):
        why = next(
            (end.reason for end in outcome.ranks if end.code == ExitCode.STOPPED and end.reason), "asked to stop"
        )
        return f"{why}; {saved}"
    return f"asked to stop, but not every rank ended by itself; {saved}"


def _cause_text(outcome: Outcome, culprit: RankEnd | None, cause: Cause) -> str:
    if culprit is None:
        return "the agent ended before it started a rank"
    if is_end_of_agent(culprit, outcome):
        return f"torchrun was killed by {_signal_name(-outcome.agent_status)}, and its ranks with it"
    text = describe(culprit, with_host=outcome.num_hosts > 1)
    return f"{text}, by the kernel's out-of-memory killer" if cause == Cause.KILLED_FOR_MEMORY else text


def _with_advice(text: str, cause: Cause) -> str:
    advice = advice_on(cause)
    return f"{text}; {advice}" if advice else text


def _meaning(code: int | None) -> str:
    return next((text for known, text in _MEANINGS.items() if known == code), "an error before the trainer was up")


def _colon(reason: str) -> str:
    """Return `: reason`; of a traceback the line that names the error."""
    text = last_line(reason)
    return f": {text}" if text else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
