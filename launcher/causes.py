"""Names why an attempt ended, from the rank that took the others with it. Pure: reads texts, decides nothing."""

import re
from enum import StrEnum

from launcher.ends import Outcome, RankEnd, culprit_of
from llama_dist.exit_codes import ExitCode


class Cause(StrEnum):
    """What ended an attempt. The values stand in `exit.json`."""

    OUT_OF_MEMORY = "out of memory"
    KILLED_FOR_MEMORY = "killed by the kernel for want of memory"
    KILLED = "killed by a signal"
    LOST_NODE = "lost node"
    TIMED_OUT = "communication timed out"
    LOST_PEER = "lost peer"
    HANG = "hang"
    REPLICAS_DIFFER = "replicas differ"
    DIVERGED = "diverged"
    BAD_CONFIG = "bad config"
    BAD_DATA = "bad data"
    DISK = "disk"
    BUG = "bug in llama-dist"
    NOT_STARTED = "the trainer did not start"
    RESIZED = "more nodes"
    SUPERSEDED = "superseded by a newer attempt"
    UNKNOWN = "unknown"


# The last line of a traceback, or the one line of a reported error.
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|^MemoryError|CUDA out of memory|CUDA error: out of memory|Cannot allocate memory|"
    r"can't allocate memory|bad_alloc|CUBLAS_STATUS_ALLOC_FAILED|not enough memory"
)
_DISK = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system|Input/output error|Stale file")
_TIMED_OUT = re.compile(r"tim(?:ed|e)[ -]?out", re.IGNORECASE)

_BY_ERROR = {
    "DataError": Cause.BAD_DATA,
    "DivergedError": Cause.DIVERGED,
    "ReplicasDifferError": Cause.REPLICAS_DIFFER,
    "FencedError": Cause.SUPERSEDED,
}
_BY_CODE = {
    ExitCode.BAD_INPUT: Cause.BAD_CONFIG,
    ExitCode.STORAGE: Cause.DISK,
    ExitCode.RETRY: Cause.LOST_PEER,
    ExitCode.OUR_BUG: Cause.BUG,
}

_ADVICE = {
    Cause.OUT_OF_MEMORY: (
        "the model does not fit as it is cut now: lower batch.micro_batch_sequences, set "
        "train.activation_checkpointing, raise parallel.zero_stage, or train on more nodes (`llama-dist plan` "
        "estimates the memory of a rank)"
    ),
    Cause.KILLED_FOR_MEMORY: (
        "the host's memory is full: fewer processes on a node, checkpoint.asynchronous: false (it saves a copy of the "
        "state), no parallel.offload_optimizer, or whatever else runs there"
    ),
}


def blamed(outcome: Outcome) -> RankEnd | None:
    """Return the rank that ended the attempt: one that got no memory comes before those that were ended or lost it."""
    starved = next((end for end in outcome.first_failed_first() if is_out_of_memory(end)), None)
    return starved or culprit_of(outcome)


def cause_of_attempt(outcome: Outcome) -> Cause:
    """Name what ended an attempt that was neither done nor stopped."""
    if outcome.hang:
        return Cause.HANG
    culprit = blamed(outcome)
    return Cause.NOT_STARTED if culprit is None else cause_of_end(culprit, outcome)


def cause_of_end(end: RankEnd, outcome: Outcome) -> Cause:
    """Name what ended this rank."""
    if end.lost_because:
        return Cause.LOST_NODE
    if is_out_of_memory(end):
        return Cause.OUT_OF_MEMORY
    if end.code is None:
        return _cause_of_silent(end, outcome)
    if end.error in _BY_ERROR:
        return _BY_ERROR[end.error]
    by_code = next((cause for code, cause in _BY_CODE.items() if code == end.code), Cause.NOT_STARTED)
    return _cause_in_text(end) or by_code


def is_out_of_memory(end: RankEnd) -> bool:
    """Whether the rank itself said that it got no memory."""
    if end.recorded_code not in (ExitCode.OUR_BUG, ExitCode.STORAGE):
        return False
    return end.error in ("OutOfMemoryError", "MemoryError") or bool(_OUT_OF_MEMORY.search(last_line(end.reason)))


def is_end_of_agent(end: RankEnd, outcome: Outcome) -> bool:
    """Whether the rank went down with its agent, which a signal ended: nobody saw how, and it wrote nothing down."""
    return end.status is None and end.code is None and not end.lost_because and outcome.agent_status < 0


def advice_on(cause: Cause) -> str:
    """What a person can do about it; empty where the reason says it."""
    return _ADVICE.get(cause, "")


def last_line(text: str) -> str:
    """Of a traceback the line that names the error, else the whole text."""
    lines = text.strip().splitlines()
    if not lines or not lines[0].startswith("Traceback"):
        return text.strip()
    # An error may have several lines: the first one that is not indented after the last frame names it.
    last_frame = max((number for number, line in enumerate(lines) if line.startswith("  ")), default=0)
    return lines[min(last_frame + 1, len(lines) - 1)]


def _cause_in_text(end: RankEnd) -> Cause | None:
    told = last_line(end.reason)
    if end.code == ExitCode.OUR_BUG and _DISK.search(told):
        return Cause.DISK
    return Cause.TIMED_OUT if end.code == ExitCode.RETRY and _TIMED_OUT.search(told) else None


def _cause_of_silent(end: RankEnd, outcome: Outcome) -> Cause:
    if is_end_of_agent(end, outcome):
        return Cause.KILLED
    if not end.was_killed:
        return Cause.UNKNOWN
    num_kills = outcome.oom_kills.get(end.host, 0) if end.host else sum(outcome.oom_kills.values())
    return Cause.KILLED_FOR_MEMORY if end.status == -9 and num_kills else Cause.KILLED
