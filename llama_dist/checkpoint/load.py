"""Finds the newest good checkpoint and reads it, whatever topology wrote it. Verifies before it parses."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from llama_dist.checkpoint.manifest import (
    CheckpointError,
    FileRecord,
    Manifest,
    TensorRecord,
    has_any_step,
    list_steps,
    read_manifest,
    step_directory,
)
from llama_dist.checkpoint.tensor_file import tensor_key
from llama_dist.checkpoint.verify import verify_checkpoint, verify_file
from llama_dist.parallel.engine import STATES, Engine, StatePartition
from llama_dist.runtime.process_group import all_gather_json, broadcast_json


@dataclass(frozen=True)
class Found:
    """A verified checkpoint, and why newer ones were passed over."""

    directory: Path
    manifest: Manifest
    passed_over: tuple[str, ...]


def find_newest_good(checkpoints: Path) -> Path:
    """Directory of the newest checkpoint whose files are all as its manifest says. One process, no group.

    Raises CheckpointError with the fault of each one, if none is good.
    """
    faults = []
    for step in reversed(list_steps(checkpoints)):
        directory = step_directory(checkpoints, step)
        found = verify_checkpoint(directory)
        if not found:
            return directory
        faults += found
    raise _none_good(checkpoints, faults)


def agree_on_newest_good(checkpoints: Path, rank: int, world_size: int) -> Found | None:
    """Collective. The newest good checkpoint, the same on every rank, each of which verifies a share of the files.

    None where no checkpoint was ever begun. Raises CheckpointError if there are some and none is good: the run must
    not start from zero in silence.
    """
    steps, any_begun = broadcast_json([list_steps(checkpoints), has_any_step(checkpoints)])
    faults: list[str] = []
    for step in reversed(steps):
        directory = step_directory(checkpoints, step)
        faults_here = _gather_faults(_verify_share(directory, rank, world_size))
        if not faults_here:
            return Found(directory, read_manifest(directory), tuple(faults))
        faults += faults_here
    if any_begun:
        raise _none_good(checkpoints, faults)
    return None


def load_into(engine: Engine, found: Found) -> None:
    """Collective. Fill the engine's partitions from the ranges they need, then refresh its working weights.

    Raises CheckpointError, both sides printed, if a parameter is absent or has another shape.
    """
    partitions = list(engine.partitions())
    faults = _gather_faults([fault for one in partitions if (fault := _mismatch(one, found.manifest))])
    held = {name for of_rank in all_gather_json([one.name for one in partitions]) for name in of_rank}
    unused = sorted(found.manifest.tensors.keys() - held)
    faults += [f"{name}: the checkpoint has it, the model does not" for name in unused]
    if faults:
        raise CheckpointError(f"{found.directory} does not fit this model:\n  " + "\n  ".join(faults))
    with _PieceReader(found.directory, found.manifest.files) as reader:
        for partition in partitions:
            record = found.manifest.tensors[partition.name]
            for state, target in partition.tensors.items():
                reader.fill(target, partition.name, state, record, partition.offset)
    engine.restore(found.manifest.scalars)


def load_weights(directory: Path) -> tuple[Manifest, dict[str, torch.Tensor]]:
    """Verify one checkpoint and return its manifest and whole fp32 weights by name. One process, no group."""
    faults = verify_checkpoint(directory)
    if faults:
        raise CheckpointError("the checkpoint is damaged:\n  " + "\n  ".join(faults))
    manifest = read_manifest(directory)
    weights = {}
    with _PieceReader(directory, manifest.files) as reader:
        for name, record in manifest.tensors.items():
            flat = torch.empty(record.num_elements, dtype=torch.float32)
            reader.fill(flat, name, STATES[0], record, 0)
            weights[name] = flat.view(record.shape)
    return manifest, weights


class _PieceReader:
    """Reads ranges out of the files of one checkpoint; each file is opened once, and mapped, not read whole."""

    def __init__(self, directory: Path, files: tuple[FileRecord, ...]) -> None:
        self._directory, self._files = directory, files
        self._open: dict[int, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "_PieceReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def fill(self, target: torch.Tensor, name: str, state: str, record: TensorRecord, offset: int) -> None:
        """Copy elements [offset, offset + len(target)) of the flattened tensor into `target` [length]."""
        num_filled = 0
        for file, piece_offset, start, end in _overlaps(record, offset, target.numel()):
            source = self._file(file).get_slice(tensor_key(name, state, piece_offset))
            target[start - offset : end - offset].copy_(source[start - piece_offset : end - piece_offset])
            num_filled += end - start
        if num_filled != target.numel():
            raise CheckpointError(
                f"{self._directory}: {name} ({state}): has {num_filled} of {target.numel()} elements from {offset}"
            )

    def _file(self, number: int) -> Any:
        if number not in self._open:
            path = self._directory / self._files[number].name
            self._open[number] = self._stack.enter_context(safe_open(path, framework="pt"))
        return self._open[number]


def _overlaps(record: TensorRecord, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """(file, piece offset, start, end) of each piece that meets [offset, offset + length), in flattened elements."""
    for piece in record.pieces:
        start, end = max(offset, piece.offset), min(offset + length, piece.offset + piece.length)
        if start < end:
            yield piece.file, piece.offset, start, end


def _verify_share(directory: Path, rank: int, world_size: int) -> list[str]:
    try:
        manifest = read_manifest(directory)
    except CheckpointError as error:
        return [str(error)]
    share = manifest.files[rank::world_size]
    return [fault for record in share if (fault := verify_file(directory, record))]


def _gather_faults(faults: list[str]) -> list[str]:
    """Collective. The faults that any rank found, each once."""
    return sorted({fault for of_rank in all_gather_json(faults) for fault in of_rank})


def _mismatch(partition: StatePartition, manifest: Manifest) -> str | None:
    record = manifest.tensors.get(partition.name)
    if record is None:
        return f"{partition.name}: the model has it, the checkpoint does not"
    if record.shape != partition.shape:
        return f"{partition.name}: the model has shape {partition.shape}, the checkpoint {record.shape}"
    return None


def _none_good(checkpoints: Path, faults: list[str]) -> CheckpointError:
    listed = "\n  ".join(faults) or "no checkpoint has its manifest.json"
    return CheckpointError(
        f"{checkpoints}: no checkpoint is good:\n  {listed}\nRestore one from a copy, or start again with --fresh."
    )
