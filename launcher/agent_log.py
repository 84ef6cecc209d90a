"""Reads from torchrun's own report which worker ended how. It has no other output than text.

Does not decide anything. Where the text is of another shape the answer is empty, and a missing exit record counts
as a lost rank.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

# torch.distributed.elastic.multiprocessing.errors: _FAILURE_FORMAT_TEMPLATE (torch 2.11 to 2.13)
_FAILURE = re.compile(r"^\s+rank\s*: (\d+) \(local_rank: \d+\)\n\s+exitcode\s*: (-?\d+) \(pid: (\d+)\)", re.MULTILINE)
_ROOT_CAUSE = "Root Cause (first observed failure):"
# multiprocessing/api.py: a worker that did not end in time after SIGTERM is killed by the agent itself
_KILLED_BY_AGENT = re.compile(r"Unable to shutdown process (\d+) via")
_ENDS_THE_OTHERS = " closing signal SIG"
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True)
class WorkerFailures:
    """How the workers ended that did not end with 0: `statuses` by rank, negative for a signal."""

    statuses: dict[int, int] = field(default_factory=dict)
    first_failed_rank: int | None = None
    lost: dict[int, str] = field(default_factory=dict)
    """Ranks of nodes that were lost, with the reason, for example `node2 did not answer for 10 s`."""

    oom_kills: dict[str, int] = field(default_factory=dict)
    """By host, processes that its kernel ended for want of memory while the attempt ran."""


def parse_agent_log(text: str, ended_pids: Collection[int] = ()) -> WorkerFailures:
    """Read the failure table at the end of an agent's log.

    A status of SIGKILL that came from the agent's own clean-up, or from ours (`ended_pids`), is reported as SIGTERM:
    it was no cause.
    """
    killed_by_agent = {int(pid) for pid in _KILLED_BY_AGENT.findall(text)} | set(ended_pids)
    statuses = {}
    for rank, status, pid in _FAILURE.findall(text):
        statuses[int(rank)] = -15 if int(pid) in killed_by_agent else int(status)
    root = _FAILURE.search(text, text.rfind(_ROOT_CAUSE)) if _ROOT_CAUSE in text else None
    return WorkerFailures(statuses, int(root.group(1)) if root else None)


def read_agent_log(path: Path, ended_pids: Collection[int] = ()) -> WorkerFailures:
    """Parse the end of the log; an absent file has no failures."""
    return parse_agent_log(read_tail(path, _TAIL_BYTES), ended_pids)


def agent_ends_its_ranks(path: Path) -> bool:
    """Whether the agent has seen a rank end and now asks the others to."""
    return _ENDS_THE_OTHERS in read_tail(path, _TAIL_BYTES)


def read_tail(path: Path, num_bytes: int) -> str:
    """Return the last `num_bytes` of a log, or nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - num_bytes))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
