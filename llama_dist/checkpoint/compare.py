"""Whether two checkpoints hold the same, whatever topology wrote them: `python -m llama_dist.checkpoint.compare A B`.

Verifies both, streams them a stretch at a time, and prints one JSON object. Ends with 0 if they are equal bit for bit,
1 if they differ, 74 if one is damaged or they are not of one model. Changes nothing.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
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

    largest_value: float
    """Largest absolute value in the first checkpoint: what a difference is small or large against."""

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


def compare_checkpoints(a: Path, b: Path) -> Comparison:
    """Verify both and compare them. One process, no group. Raises CheckpointError: damaged, or of two models."""
    faults = [*verify_checkpoint(a), *verify_checkpoint(b)]
    if faults:
        raise CheckpointError("damaged checkpoints are not compared:\n  " + "\n  ".join(faults))
    manifests = read_manifest(a), read_manifest(b)
    _check_same_model(*manifests)
    states = {}
    for state in MASTER_AND_MOMENTS:
        states[state] = _compare_state(state, (a, manifests[0]), (b, manifests[1]))
    values = {name: [getattr(manifest, name) for manifest in manifests] for name in _FIELDS}
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
        self.largest_difference = self.largest_value = 0.0

    def add(self, a: torch.Tensor, b: torch.Tensor) -> None:
        for digest, values in zip(self.digests, (a, b), strict=True):
            digest.update(values.numpy().data)
        self.largest_value = max(self.largest_value, _as_number(a.abs().max()))
        self.largest_difference = max(self.largest_difference, _as_number((a - b).abs().max()))

    @property
    def hashes(self) -> tuple[str, str]:
        return self.digests[0].hexdigest(), self.digests[1].hexdigest()


def _compare_state(state: str, a: tuple[Path, Manifest], b: tuple[Path, Manifest]) -> StateComparison:
    tensors: dict[str, _Tensor] = {}
    sizes = {name: record.num_elements for name, record in sorted(a[1].tensors.items())}
    for stretches in _batches(sizes):
        read = []
        for directory, manifest in (a, b):
            wanted = [Wanted(name, state, offset, torch.empty(length)) for name, offset, length in stretches]
            read_ranges(directory, manifest, wanted)
            read.append(wanted)
        for one, other in zip(*read, strict=True):
            tensors.setdefault(one.name, _Tensor()).add(one.target, other.target)
    different = {name: one for name, one in tensors.items() if one.hashes[0] != one.hashes[1]}
    # Equal numbers can differ in bits (0 and -0): then the first of them is named.
    worst = max(different, key=lambda name: different[name].largest_difference, default=None)
    return StateComparison(
        equal=not different,
        num_tensors=len(tensors),
        num_different=len(different),
        largest_difference=0.0 if worst is None else different[worst].largest_difference,
        tensor=worst,
        largest_value=max((one.largest_value for one in tensors.values()), default=0.0),
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
    """Print the comparison of the two directories in the arguments; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llama_dist.checkpoint.compare", description=__doc__)
    parser.add_argument(
        "a", type=Path, help="Directory of a checkpoint, for example runs/tiny/checkpoints/step_00000200."
    )
    parser.add_argument("b", type=Path, help="Directory of the other.")
    arguments = parser.parse_args()
    try:
        comparison = compare_checkpoints(arguments.a, arguments.b)
    except ReportedError as error:
        print(f"compare: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(json.dumps(asdict(comparison), indent=2))
    return 0 if comparison.equal else _DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
