"""Whether two checkpoints hold the same, whatever topology wrote them: `python -m llama_dist.checkpoint.compare A B`.

Verifies both, streams them a stretch at a time, and prints one JSON object. Ends with 0 if they are equal bit for bit,
1 if they differ, 74 if one is damaged or they are not of one model. With `--since C`, from which both came, weights are
measured by how far they have moved since. Changes nothing.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from data_pipeline.config import ReportedError
from llama_dist.checkpoint.manifest import MASTER_AND_MOMENTS, CheckpointError, Manifest, read_manifest
from llama_dist.checkpoint.range_reader import Wanted, read_ranges
from llama_dist.checkpoint.verify import verify_checkpoint

_STRETCH_ELEMENTS = 1 << 24
"""Elements (64 MiB) of each checkpoint that are in memory at once; smaller tensors are read together."""

_DIFFERENT = 1

_FIELDS = ("step", "tokens_seen", "data", "scalars")
"""What two checkpoints of one position say alike, apart from their tensors."""


@dataclass(frozen=True)
class StateComparison:
    """One state (`fp32`, `exp_avg`, `exp_avg_sq`) of all parameters. A difference that is no number counts as inf."""

    equal: bool
    """Whether every element is the same, bit for bit."""

    num_tensors: int
    num_different: int

    largest_difference: float
    """Largest absolute difference of two elements."""

    tensor: str | None
    """Where that is; None if all are equal."""

    largest_share: float
    """Largest, over the tensors, of the difference's L2 norm over the norm of what the tensor has become: of its values
    in the first checkpoint, or for weights with `since` of their movement from there."""

    share_tensor: str | None
    """Where that is; None if all are equal."""

    hash_a: str
    hash_b: str
    """xxh3-128 over name and content of every flattened tensor: the same on every topology."""


@dataclass(frozen=True)
class Comparison:
    """What two checkpoints have in common."""

    equal: bool
    """Whether all states are equal, and nothing differs in `fields`."""

    a: str
    b: str
    states: dict[str, StateComparison]
    fields: dict[str, list[Any]]
    """What the manifests say differently of position, data and scalars: both values."""


def compare_checkpoints(a: Path, b: Path, since: Path | None = None) -> Comparison:
    """Verify and compare them, `b` against `a`. One process, no group.

    Raises CheckpointError where one is damaged, or they are of two models.
    """
    directories = [a, b] if since is None else [a, b, since]
    faults = [fault for directory in directories for fault in verify_checkpoint(directory)]
    if faults:
        raise CheckpointError("damaged checkpoints are not compared:\n  " + "\n  ".join(faults))
    sources = [(directory, read_manifest(directory)) for directory in directories]
    for _, manifest in sources[1:]:
        _check_same_model(sources[0][1], manifest)
    states = {}
    for state in MASTER_AND_MOMENTS:
        # A moment forgets what it was, and is measured by what it is; a weight has moved little of its value.
        states[state] = _compare_state(state, sources if state == MASTER_AND_MOMENTS[0] else sources[:2])
    values = {name: [getattr(manifest, name) for _, manifest in sources[:2]] for name in _FIELDS}
    fields = {name: pair for name, pair in values.items() if pair[0] != pair[1]}
    return Comparison(not fields and all(one.equal for one in states.values()), str(a), str(b), states, fields)


def _check_same_model(a: Manifest, b: Manifest) -> None:
    shapes = [{name: record.shape for name, record in manifest.tensors.items()} for manifest in (a, b)]
    names = sorted(shapes[0].keys() | shapes[1].keys())
    faults = [
        f"{name}: shape {shapes[0].get(name, 'absent')} against {shapes[1].get(name, 'absent')}"
        for name in names
        if shapes[0].get(name) != shapes[1].get(name)
    ]
    if faults:
        raise CheckpointError("the checkpoints are not of one model:\n  " + "\n  ".join(faults))


class _Tensor:
    """What is known of one tensor of both sides while it is read, from its beginning to its end."""

    def __init__(self) -> None:
        self.digests = xxhash.xxh3_128(), xxhash.xxh3_128()
        self.largest_difference = self._difference_squared = self._measure_squared = 0.0

    def add(self, a: torch.Tensor, b: torch.Tensor, since: torch.Tensor | None = None) -> None:
        for digest, values in zip(self.digests, (a, b), strict=True):
            digest.update(values.numpy().data)
        difference, measure = a - b, a if since is None else a - since
        self.largest_difference = max(self.largest_difference, _as_number(difference.abs().max()))
        self._difference_squared += _as_number(difference.double().square().sum())
        self._measure_squared += _as_number(measure.double().square().sum())

    @property
    def share(self) -> float:
        if not self._difference_squared:
            return 0.0
        # Where nothing has moved, nothing may differ; where a measure is no number, neither is the share.
        is_measured = 0.0 < self._measure_squared < math.inf
        return math.sqrt(self._difference_squared / self._measure_squared) if is_measured else math.inf

    @property
    def hashes(self) -> tuple[str, str]:
        return self.digests[0].hexdigest(), self.digests[1].hexdigest()


def _compare_state(state: str, sources: Sequence[tuple[Path, Manifest]]) -> StateComparison:
    """Compare the second source with the first; a third is what both came from."""
    tensors: dict[str, _Tensor] = {}
    sizes = {name: record.num_elements for name, record in sorted(sources[0][1].tensors.items())}
    for stretches in _batches(sizes):
        read = []
        for directory, manifest in sources:
            wanted = [Wanted(name, state, offset, torch.empty(length)) for name, offset, length in stretches]
            read_ranges(directory, manifest, wanted)
            read.append(wanted)
        for same in zip(*read, strict=True):
            tensors.setdefault(same[0].name, _Tensor()).add(*(one.target for one in same))
    different = {name: one for name, one in tensors.items() if one.hashes[0] != one.hashes[1]}
    # Equal numbers can differ in bits (0 and -0): then the first of them is named.
    worst = max(different, key=lambda name: different[name].largest_difference, default=None)
    farthest = max(different, key=lambda name: different[name].share, default=None)
    return StateComparison(
        equal=not different,
        num_tensors=len(tensors),
        num_different=len(different),
        largest_difference=0.0 if worst is None else different[worst].largest_difference,
        tensor=worst,
        largest_share=0.0 if farthest is None else different[farthest].share,
        share_tensor=farthest,
        hash_a=_hash_of_all((name, one.hashes[0]) for name, one in tensors.items()),
        hash_b=_hash_of_all((name, one.hashes[1]) for name, one in tensors.items()),
    )


def _batches(sizes: dict[str, int]) -> Iterator[list[tuple[str, int, int]]]:
    """Cut the flattened tensors into stretches (name, offset, length), and gather them up to what is read at once."""
    batch: list[tuple[str, int, int]] = []
    num_elements = 0
    for name, size in sizes.items():
        for offset in range(0, size, _STRETCH_ELEMENTS):
            length = min(_STRETCH_ELEMENTS, size - offset)
            if num_elements + length > _STRETCH_ELEMENTS:
                yield batch
                batch, num_elements = [], 0
            batch.append((name, offset, length))
            num_elements += length
    if batch:
        yield batch


def _hash_of_all(hashes: Iterable[tuple[str, str]]) -> str:
    return xxhash.xxh3_128("".join(f"{name} {one}\n" for name, one in hashes).encode()).hexdigest()


def _as_number(value: torch.Tensor) -> float:
    return math.inf if math.isnan(number := float(value)) else number


def main() -> int:
    """Print the comparison of the directories in the arguments; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llama_dist.checkpoint.compare", description=__doc__)
    parser.add_argument(
        "a", type=Path, help="Directory of a checkpoint, for example runs/tiny/checkpoints/step_00000200."
    )
    parser.add_argument("b", type=Path, help="Directory of the other.")
    parser.add_argument("--since", type=Path, help="Directory of the checkpoint from which both came.")
    arguments = parser.parse_args()
    try:
        comparison = compare_checkpoints(arguments.a, arguments.b, arguments.since)
    except ReportedError as error:
        print(f"compare: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(json.dumps(asdict(comparison), indent=2))
    return 0 if comparison.equal else _DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
