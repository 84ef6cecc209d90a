"""Names ranks and their hosts for people: `rank 1 on node2`, `ranks 0, 1 on node1 and ranks 4, 5 on node3`. Pure."""

from collections.abc import Mapping, Sequence

_MAX_RANKS_NAMED = 4
_MAX_HOSTS_NAMED = 3


def name_ranks(hosts: Mapping[int, str]) -> str:
    """Name the ranks, each with its host; an empty host is not named. Many are counted."""
    by_host: dict[str, list[int]] = {}
    for rank in sorted(hosts):
        by_host.setdefault(hosts[rank], []).append(rank)
    groups = [
        _name_group(ranks) + (f" on {host}" if host else "") for host, ranks in list(by_host.items())[:_MAX_HOSTS_NAMED]
    ]
    if len(by_host) > _MAX_HOSTS_NAMED:
        groups.append(f"those of {len(by_host) - _MAX_HOSTS_NAMED} more hosts")
    return ", ".join(groups[:-1]) + (" and " if len(groups) > 1 else "") + groups[-1]


def _name_group(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) <= _MAX_RANKS_NAMED:
        return f"ranks {', '.join(map(str, ranks))}"
    return f"{len(ranks)} ranks ({ranks[0]} to {ranks[-1]})"
