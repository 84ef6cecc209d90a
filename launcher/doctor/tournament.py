"""Who measures with whom and when: every pair of nodes once, no node twice in a round, in as few rounds as possible.

Pure.
"""

from collections.abc import Sequence


def pair_rounds(hosts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Return the rounds of a round-robin tournament: N - 1 for an even number N of hosts, N for an odd one.

    The circle method: one place is fixed, all others move on by one in each round. In an odd field one rests.
    """
    circle: list[str | None] = [*hosts] if len(hosts) % 2 == 0 else [*hosts, None]
    rounds = []
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        facing = zip(circle[:half], reversed(circle[half:]), strict=True)
        rounds.append([(one, other) for one, other in facing if one is not None and other is not None])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return rounds
