"""What the rehearsed run itself recorded: was every sample trained on once, and did repeated steps give the same loss.

Reads files alone.
"""

import json
from collections import Counter
from dataclasses import dataclass

from launcher.attempt_files import attempt_numbers
from launcher.records import read_json
from launcher.rehearsal.lineage import Repetition, find_repetitions
from launcher.resume_evidence import Samples, read_losses, read_samples, read_samples_of_attempts
from llama_dist.config import RunDirectory, load_run_config


@dataclass(frozen=True)
class Evidence:
    """What the records of all attempts say together. A step of None means that there is none."""

    num_steps: int
    first_step_without_loss: int | None
    first_step_with_wrong_samples: int | None
    """First step whose samples are not the batch's number, each once in the run, and the same whenever it was begun."""

    num_repeated_alike: int
    """Steps done again on the topology of the first time: equal bit for bit."""

    num_repeated_elsewhere: int
    """Steps done again on another topology: equal within `tolerance`."""

    largest_difference: float
    """Of the losses of repeated steps, relative."""

    tolerance: float
    first_step_with_other_loss: int | None

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost or repeated."""
        faults = (self.first_step_without_loss, self.first_step_with_wrong_samples, self.first_step_with_other_loss)
        return all(step is None for step in faults)


def read_evidence(run: RunDirectory, num_sequences: int, tolerance: float) -> Evidence:
    """Read what a run of batches of `num_sequences` recorded; it must have ended."""
    losses = read_losses(run)
    num_steps = losses[-1][1] if losses else 0
    done = {step for _, step, _ in losses}
    repetitions = find_repetitions(losses, read_topologies(run))
    return Evidence(
        num_steps=num_steps,
        first_step_without_loss=next((step for step in range(1, num_steps + 1) if step not in done), None),
        first_step_with_wrong_samples=_first_step_with_wrong_samples(run, num_steps, num_sequences),
        num_repeated_alike=sum(one.is_same_lineage for one in repetitions),
        num_repeated_elsewhere=sum(not one.is_same_lineage for one in repetitions),
        largest_difference=max((one.difference for one in repetitions), default=0.0),
        tolerance=tolerance,
        first_step_with_other_loss=_first_difference(repetitions, tolerance),
    )


def read_topologies(run: RunDirectory) -> dict[int, str]:
    """Return what decides about the order of additions, by attempt; equal texts add in the same order."""
    topologies = {}
    for number in attempt_numbers(run):
        config = load_run_config(run.attempt_config(number))
        world_size = (read_json(run.attempt(number) / "plan.json") or {}).get("world_size")
        values = (
            world_size,
            config.parallel.model_dump(mode="json"),
            config.batch.model_dump(mode="json"),
            config.train.activation_checkpointing,
        )
        topologies[number] = json.dumps(values, sort_keys=True)
    return topologies


def _first_difference(repetitions: list[Repetition], tolerance: float) -> int | None:
    return min((one.step for one in repetitions if not one.is_within(tolerance)), default=None)


def _first_step_with_wrong_samples(run: RunDirectory, num_steps: int, num_sequences: int) -> int | None:
    found, seen = read_samples(run), set[tuple[int, int]]()
    begun = sorted(read_samples_of_attempts(run).items(), key=lambda item: item[0])
    wrong = {step for (step, _), samples in begun if not samples <= found[step]}
    for step in range(1, num_steps + 1):
        samples: Samples = found.get(step, Counter())
        is_whole = samples.total() == len(samples) == num_sequences
        if step in wrong or not is_whole or seen & samples.keys():
            return step
        seen |= samples.keys()
    return None
