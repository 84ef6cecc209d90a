"""Which of a run's repeated steps must agree bit for bit, and which within rounding. Pure.

A step is done twice where an attempt went back to a checkpoint. Its loss must be the very same where both attempts, and
all that their weights came from, had the same topology; another topology adds in another order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Lineage = tuple[tuple[int, str], ...]
"""Topologies that a state came from, oldest first, each with the first step that it did."""


@dataclass(frozen=True)
class Repetition:
    """One step that was done again."""

    step: int
    first_loss: float
    loss: float
    is_same_lineage: bool
    """Whether it must be bit for bit the same."""

    @property
    def difference(self) -> float:
        """Relative to the first loss."""
        return abs(self.loss - self.first_loss) / abs(self.first_loss)

    def is_within(self, tolerance: float) -> bool:
        """Whether it agrees; `tolerance` is for another lineage. A loss that is no number never does."""
        return self.loss == self.first_loss if self.is_same_lineage else self.difference <= tolerance


def find_repetitions(losses: Iterable[tuple[int, int, float]], topologies: Mapping[int, str]) -> list[Repetition]:
    """Find the steps that were done again, from (attempt, step, loss) in the order they were done.

    `topologies` names that of each attempt. A step is held against the first time it was done with the same lineage, or
    else against the first time at all.
    """
    lineages: dict[int, Lineage] = {}
    newest_attempt: dict[int, int] = {}
    done: dict[int, list[tuple[Lineage, float]]] = {}
    repetitions = []
    for attempt, step, loss in losses:
        if attempt not in lineages:
            before = newest_attempt.get(step - 1)
            inherited = () if before is None else _until(lineages[before], step - 1)
            lineages[attempt] = _followed_by(inherited, step, topologies.get(attempt, f"attempt {attempt}"))
        lineage = _until(lineages[attempt], step)
        former = done.setdefault(step, [])
        if former:
            same = next((known for of, known in former if of == lineage), None)
            first_loss = former[0][1] if same is None else same
            repetitions.append(Repetition(step, first_loss, loss, same is not None))
        former.append((lineage, loss))
        newest_attempt[step] = attempt
    return repetitions


def _until(lineage: Lineage, step: int) -> Lineage:
    return tuple(part for part in lineage if part[0] <= step)


def _followed_by(lineage: Lineage, step: int, topology: str) -> Lineage:
    return lineage if lineage and lineage[-1][1] == topology else (*lineage, (step, topology))
