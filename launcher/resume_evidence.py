"""What two sub-runs recorded of their steps, losses and samples, and where they differ first. Reads files alone."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from llama_dist.config import RunDirectory

Samples = Counter[tuple[int, int]]
"""(epoch, sample id) of one step, over all ranks: how often each was trained on."""


@dataclass(frozen=True)
class LossDifference:
    """How the losses of a run differ from those of the straight one."""

    num_compared: int
    """Losses compared; a step that was done twice counts twice."""

    first_step: int | None
    """First step whose loss differs by more than is allowed, or is missing; None if there is none."""

    largest: float
    """Largest difference, relative to the straight run's loss."""


def read_losses(run: RunDirectory) -> list[tuple[int, int, float]]:
    """(attempt, step, loss) of every step done, redone ones included, in the order they were done."""
    records = (values for values in _lines(run.spool) if {"attempt", "step", "loss"} <= values.keys())
    return [(int(one["attempt"]), int(one["step"]), float(one["loss"])) for one in records]


def compare_losses(
    straight: RunDirectory, other: RunDirectory, steps: range, relative_tolerance: float
) -> LossDifference:
    """Compare the loss of every step of `steps`, each time that `other` did it; a tolerance of 0 is bit for bit."""
    expected = {step: loss for _, step, loss in read_losses(straight)}
    largest, faults, seen = 0.0, [], []
    for _, step, loss in read_losses(other):
        if step not in steps:
            continue
        seen.append(step)
        difference = abs(loss - expected[step]) / abs(expected[step]) if step in expected else float("inf")
        largest = max(largest, difference)
        if not difference <= relative_tolerance:  # not a number: neither is smaller
            faults.append(step)
    faults += [step for step in steps if step not in seen]
    return LossDifference(len(seen), min(faults, default=None), largest)


def first_step_of_attempt(run: RunDirectory, attempt: int) -> int | None:
    """The step that an attempt did first; None if it did none."""
    return min((step for number, step, _ in read_losses(run) if number == attempt), default=None)


def read_samples_of_attempts(run: RunDirectory) -> Mapping[tuple[int, int], Samples]:
    """Samples by (step, attempt): what the ranks of an attempt read for a step, all of it or, where killed, a part."""
    found: dict[tuple[int, int], Samples] = {}
    for path in sorted((run.metrics / "audit").glob("rank_*.jsonl")):
        for values in _lines(path):
            key = int(values["step"]), int(values["attempt"])
            samples: Samples = Counter(zip(values["epochs"], values["sample_ids"], strict=True))
            found[key] = found.get(key, Counter()) + samples
    return found


def read_samples(run: RunDirectory) -> Mapping[int, Samples]:
    """Samples of each step, of the newest attempt that began the step: those whose weights live on."""
    return {step: samples for (step, _), samples in sorted(read_samples_of_attempts(run).items(), key=itemgetter(0))}


def first_step_with_other_samples(
    straight: RunDirectory, other: RunDirectory, steps: range, num_sequences: int
) -> int | None:
    """First step that `other` did not do with the same samples, each once, `num_sequences` in all; None if none."""
    expected, found = read_samples(straight), read_samples(other)
    for step in steps:
        samples = found.get(step, Counter())
        if samples != expected.get(step) or samples.total() != num_sequences or len(samples) != num_sequences:
            return step
    return None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one a line; half a line, left by a kill, is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            yield values
