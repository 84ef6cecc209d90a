"""The weights over time: stages that begin at a sample number, joined into one line of samples in closed form.

A stage begins where its predecessor was left, in mid-block as well, and goes on with the next ordinal of each source:
so a later stage changes no earlier sample, and repeats or loses none. Knows no sequence (`shuffle.py` does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.mixture import LONGEST_BLOCK_SAMPLES, Mixture, MixtureLine

Int64 = npt.NDArray[np.int64]

LAST_SAMPLE = 2**62
"""Past every run; a stage that starts later starts never."""


@dataclass(frozen=True)
class Stage:
    """One set of shares, and the sample number from which it holds."""

    number: int
    """0 before the first of `data.stages`, 1 from the first of them on."""

    first_sample: int
    mixture: Mixture


def plan_stages(config: DataConfig, num_sequences: Sequence[int]) -> list[Stage]:
    """Resolve the weights of `config` for sources of these sizes; a stage that the next one leaves empty is left out.

    Raises DataError if a stage draws from a source without a sequence, or too seldom for a block.
    """
    names = [source.resolved_name for source in config.sources]
    planned = [(0, [source.weight for source in config.sources])]
    for stage in config.stages:
        # Rounded up: the stage's weights hold for whole sequences.
        first_sample = -(-stage.starts_at_tokens // config.sequence_length_tokens)
        planned.append((min(first_sample, LAST_SAMPLE), [stage.weights.get(name, 0.0) for name in names]))
    stages = []
    for number, (first_sample, weights) in enumerate(planned):
        for source, weight in enumerate(weights):
            if weight and not num_sequences[source]:
                raise DataError(
                    f"data.sources.{source} ({names[source]}): holds no whole sequence of "
                    f"{config.sequence_length_tokens} tokens, and {_place(number)} draws from it: add text, lower "
                    "data.sequence_length_tokens, or give it weight 0"
                )
        sizes: Sequence[int] = num_sequences if config.weight_unit == "epochs" else [1] * len(weights)
        shares = [Fraction(str(weight)) * size for weight, size in zip(weights, sizes, strict=True)]
        mixture = Mixture.from_weights(shares)
        _check_smallest_share(mixture, names, _place(number))
        stages.append(Stage(number, first_sample, mixture))
    return [stage for stage, later in pairwise(stages) if stage.first_sample < later.first_sample] + stages[-1:]


def drawn_sources(config: DataConfig) -> set[int]:
    """Return the numbers of the sources that any stage draws from; the others need not hold anything."""
    names = [source.resolved_name for source in config.sources]
    drawn = {number for number, source in enumerate(config.sources) if source.weight}
    for stage in config.stages:
        drawn |= {number for number, name in enumerate(names) if stage.weights.get(name)}
    return drawn


class StageLine:
    """The endless line of samples of all stages: which source, and the how many-th sample of it in the run."""

    def __init__(self, stages: Sequence[Stage], *, seed: int) -> None:
        self.stages = tuple(stages)
        self._starts = np.array([stage.first_sample for stage in stages], dtype=np.int64)
        # Named by its start, not by its number: a stage stays itself if another is put before it.
        self._lines = [MixtureLine(stage.mixture, seed=seed, name=f"stage at {stage.first_sample}") for stage in stages]
        counts = [np.zeros(len(stages[0].mixture.shares), dtype=np.int64)]
        for line, (stage, later) in zip(self._lines, pairwise(stages), strict=False):
            counts.append(counts[-1] + line.drawn_before(later.first_sample - stage.first_sample))
        self._counts = counts

    def stage_at(self, sample_number: int) -> int:
        """Return the place in `stages` of the one that sample number belongs to."""
        return int(np.searchsorted(self._starts, sample_number, side="right")) - 1

    def draw(self, sample_numbers: Int64) -> tuple[Int64, Int64]:
        """Answer the source of each of int64 [N] samples, and how many samples of it come before in the run."""
        if len(self.stages) == 1:
            return self._lines[0].draw(sample_numbers)
        sources, ordinals = np.empty_like(sample_numbers), np.empty_like(sample_numbers)
        stages = np.searchsorted(self._starts, sample_numbers, side="right") - 1
        for stage in np.unique(stages).tolist():
            inside = stages == stage
            source, ordinal = self._lines[stage].draw(sample_numbers[inside] - self._starts[stage])
            sources[inside], ordinals[inside] = source, ordinal + self._counts[stage][source]
        return sources, ordinals

    def drawn_before(self, sample_number: int) -> Int64:
        """Count the samples of each source among the samples before this one, exactly: int64 [sources]."""
        stage = self.stage_at(sample_number)
        return self._counts[stage] + self._lines[stage].drawn_before(sample_number - int(self._starts[stage]))

    def sample_of(self, source: int, ordinal: int, *, from_stage: int) -> int | None:
        """Estimate the sample number at which `source` gives its sample `ordinal`, or None if it never does.

        Within one block of the true number; `ordinal` must not lie before `from_stage`, a place in `stages`.
        """
        for place in range(from_stage, len(self.stages)):
            shares = self.stages[place].mixture.shares
            is_last = place + 1 == len(self.stages)
            if shares[source] and (is_last or ordinal < self._counts[place + 1][source]):
                ahead = ordinal - int(self._counts[place][source])
                return self.stages[place].first_sample + ahead * sum(shares) // shares[source]
        return None


def _place(number: int) -> str:
    return f"data.stages.{number - 1}" if number else "the first stage (sources.N.weight)"


def _check_smallest_share(mixture: Mixture, names: Sequence[str], place: str) -> None:
    if mixture.block_samples <= LONGEST_BLOCK_SAMPLES:
        return
    total = sum(mixture.shares)
    source = min(mixture.drawn_sources, key=lambda number: mixture.shares[number])
    raise DataError(
        f"{place}: {names[source]} gets one sample in {total / mixture.shares[source]:.0f}, the least is one in "
        f"{LONGEST_BLOCK_SAMPLES}: raise its weight, or set it to 0"
    )
