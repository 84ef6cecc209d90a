"""How the ranks of an attempt ended, and what follows from that alone. Records; decides nothing, touches no file."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

from llama_dist.exit_codes import ExitCode

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
    """What became of its node, where that was lost."""

    error: str = ""
    """Class of the error that it wrote down."""

    @property
    def code(self) -> int | None:
        """Exit code: what the rank wrote down, or else what its process left; None for a killed or lost rank."""
        if self.recorded_code is not None:
            return self.recorded_code
        return self.status if self.status is not None and self.status >= 0 else None

    @property
    def was_killed(self) -> bool:
        """Whether a signal that the agent does not send first ended it; SIGTERM is how it ends the survivors."""
        return (
            self.recorded_code is None
            and self.status is not None
            and self.status < 0
            and self.status != -signal.SIGTERM
        )


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

    hung_ranks: tuple[int, ...] = ()
    """Who hung, where ranks stand out among the others."""

    is_resized: bool = False
    """Whether its ranks were asked to leave so that more nodes can join."""

    oom_kills: Mapping[str, int] = field(default_factory=dict)
    """By host, processes that its kernel ended for want of memory while the attempt ran."""

    nodes_change: bool = False
    """Whether the next attempt would have another number of nodes, and so another share of memory a rank."""

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

    @property
    def all_left(self) -> bool:
        """Whether every rank ended by itself, and not all of them at the last step.

        One that reports a stop while a peer is missing only lost that peer.
        """
        codes = {end.code for end in self.ranks}
        return ExitCode.STOPPED in codes and codes <= {ExitCode.STOPPED, ExitCode.DONE}

    @property
    def all_reached_the_end(self) -> bool:
        """Whether every rank was done; an agent that was asked to leave in the moment after ends by that signal."""
        return bool(self.ranks) and all(end.recorded_code == ExitCode.DONE for end in self.ranks)

    @property
    def all_went_when_asked(self) -> bool:
        """The same, where ranks that had not begun to listen yet were ended by the request itself, which is SIGTERM."""
        unheard = {end.rank for end in self.ranks if end.recorded_code is None and end.status == -signal.SIGTERM}
        return bool(self.ranks) and all(
            end.rank in unheard or end.code in (ExitCode.STOPPED, ExitCode.DONE) for end in self.ranks
        )

    @property
    def num_hosts(self) -> int:
        """Hosts that are known by name."""
        return len({end.host for end in self.ranks if end.host})

    def first_failed_first(self) -> list[RankEnd]:
        """Return the ranks in order, but for the one that failed first."""
        return sorted(self.ranks, key=lambda end: (end.rank != self.first_failed_rank, end.rank))


def culprit_of(outcome: Outcome) -> RankEnd | None:
    """Return the rank that most likely took the others with it.

    Ranks of a lost node come before a killed one, that before those that only lost their peer; SIGTERM is how the agent
    ends the survivors.
    """
    ends = outcome.first_failed_first()
    killed = [end for end in ends if end.status is not None and end.status < 0 and end.recorded_code is None]
    lost = [end for end in ends if end.lost_because]
    by_others = [end for end in ends if end.was_killed]
    silent = [end for end in ends if end.code is None]
    ended = [end for end in ends if end.code not in (None, ExitCode.DONE)]
    return next(iter([*lost, *by_others, *ended, *killed, *silent]), None)
