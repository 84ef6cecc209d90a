"""Which hosts ended attempts, and which of them are set aside for it. Pure."""

from collections.abc import Collection

from launcher.causes import blamed
from launcher.ends import Outcome

FAILURES_TO_BE_SET_ASIDE = 2
"""Of one host, in one launch."""


class Blame:
    """Counts, over the attempts of a launch, the hosts that an attempt ended on."""

    def __init__(self) -> None:
        self._reasons: dict[str, list[str]] = {}

    def note(self, outcome: Outcome, host_of_rank: dict[int, str]) -> None:
        """Blame the hosts of lost ranks, or else those of ranks that hung, or that of the rank that a signal ended.

        A hang of ranks on every host says nothing against one of them.
        """
        lost = {host_of_rank[end.rank]: end.lost_because for end in outcome.ranks if end.lost_because}
        hung = {host_of_rank[rank] for rank in outcome.hung_ranks}
        if not lost and len(hung) < len(set(host_of_rank.values())):
            lost = dict.fromkeys(hung, outcome.hang)
        cause = None if outcome.hang else blamed(outcome)
        if not lost and cause and cause.was_killed:
            lost = {host_of_rank[cause.rank]: f"rank {cause.rank} was ended there by signal {-(cause.status or 0)}"}
        for host, reason in lost.items():
            self._reasons.setdefault(host, []).append(reason)

    def set_aside(self) -> dict[str, str]:
        """Hosts that failed too often, and why."""
        return {
            host: f"set aside after {len(reasons)} failures, the last: {reasons[-1]}"
            for host, reasons in self._reasons.items()
            if len(reasons) >= FAILURES_TO_BE_SET_ASIDE
        }

    def forgive(self, hosts: Collection[str]) -> None:
        """Give these another chance: without them there are too few."""
        for host in hosts:
            self._reasons.pop(host, None)
