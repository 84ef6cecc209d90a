"""Writes a checkpoint as a transaction: each rank one file, then one rename, then the manifest.

A crash at any instant leaves either the whole checkpoint or none, and the older ones untouched.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash

from llama_dist.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointError,
    FileRecord,
    Manifest,
    Piece,
    Progress,
    TensorRecord,
    finish_manifest,
    list_steps,
    prepare_manifest,
    step_directory,
    sync_directory,
    write_synced,
)
from llama_dist.parallel.engine import Engine, StatePartition
from llama_dist.runtime.process_group import all_gather_json, broadcast_json

TOKENIZER_NAME = "tokenizer.model"


def save_checkpoint(
    checkpoints: Path, engine: Engine, progress: Progress, *, tokenizer: bytes, keep_last: int
) -> str | None:
    """Collective. Write the checkpoint of `progress.step`, then remove all but the newest `keep_last`.

    `tokenizer` is the content of its file. Answers what could not be tidied up after the checkpoint was written, or
    None. Raises CheckpointError on every rank if any rank failed to write; what was there before is untouched.
    """
    rank = engine.grid.rank
    staging = checkpoints / f".staging_{progress.step:08d}"
    _agree(_attempt(_prepare_staging, checkpoints, staging) if rank == 0 else {})
    written = _agree_all(_attempt(_write_rank_file, staging, rank, list(engine.partitions())))
    outcome: dict[str, Any] = {}
    untidy: str | None = None
    if rank == 0:
        outcome = _attempt(_publish, checkpoints, staging, written, progress, engine.scalars(), tokenizer)
        if "error" not in outcome:
            untidy = _attempt(_tidy_up, checkpoints, progress.step, keep_last).get("error")
    _agree(outcome)
    untidy = broadcast_json(untidy)
    return f"step {progress.step} is saved, but older files could not be removed: {untidy}" if untidy else None


def tensor_key(name: str, state: str, offset: int) -> str:
    """Name of one piece inside a rank's file."""
    return f"{name}:{state}:{offset}"


def _attempt(function: Any, *arguments: Any) -> dict[str, Any]:
    """Run one step of the transaction; a failure of the disk becomes a value that all ranks can share."""
    try:
        return {"result": function(*arguments)}
    except OSError as error:
        return {"error": f"{error.filename or 'checkpoint'}: {error.strerror or error}"}


def _agree(outcome: dict[str, Any]) -> None:
    """Collective. Raise on every rank what rank 0 met."""
    error = broadcast_json(outcome.get("error"))
    if error:
        raise CheckpointError(f"the checkpoint was not written: rank 0: {error}")


def _agree_all(outcome: dict[str, Any]) -> list[Any]:
    """Collective. Every rank's result, or raise what any of them met."""
    outcomes = all_gather_json(outcome)
    failed = [f"rank {rank}: {one['error']}" for rank, one in enumerate(outcomes) if "error" in one]
    if failed:
        raise CheckpointError("the checkpoint was not written: " + "; ".join(failed))
    return [one["result"] for one in outcomes]


def _prepare_staging(checkpoints: Path, staging: Path) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True, mode=0o700)
    for leftover in (*checkpoints.glob(".staging_*"), *checkpoints.glob(".replaced_*")):
        shutil.rmtree(leftover)
    staging.mkdir(mode=0o700)


def _write_rank_file(staging: Path, rank: int, partitions: Sequence[StatePartition]) -> dict[str, Any]:
    """Write this rank's ranges into one file; answer its record and which ranges it holds."""
    owned = [partition for partition in partitions if not partition.is_saved_elsewhere]
    tensors = {
        tensor_key(partition.name, state, partition.offset): tensor.to("cpu", torch.float32).contiguous()
        for partition in owned
        for state, tensor in partition.tensors.items()
    }
    content = safetensors.torch.save(tensors)
    name = f"rank_{rank:05d}.safetensors"
    write_synced(staging / name, content)
    return {
        "file": [name, len(content), xxhash.xxh3_128(content).hexdigest()],
        "ranges": [[partition.name, list(partition.shape), partition.offset, partition.length] for partition in owned],
    }


def _publish(
    checkpoints: Path,
    staging: Path,
    written: Sequence[dict[str, Any]],
    progress: Progress,
    scalars: dict[str, float],
    tokenizer: bytes,
) -> None:
    """Rank 0 only. Move the complete staging directory into place, then write the manifest."""
    write_synced(staging / TOKENIZER_NAME, tokenizer)
    tokenizer_record = FileRecord(TOKENIZER_NAME, len(tokenizer), xxhash.xxh3_128(tokenizer).hexdigest())
    manifest = Manifest(
        **vars(progress),
        scalars=scalars,
        files=(*(FileRecord(*rank["file"]) for rank in written), tokenizer_record),
        tensors=_index(rank["ranges"] for rank in written),
    )
    prepare_manifest(staging, manifest)
    target = step_directory(checkpoints, progress.step)
    if target.exists():
        # A damaged or unfinished checkpoint of the same step: the run went back past it and is here again.
        replaced = checkpoints / f".replaced_{progress.step:08d}"
        target.rename(replaced)
        staging.rename(target)
        shutil.rmtree(replaced)
    else:
        staging.rename(target)
    sync_directory(checkpoints)
    finish_manifest(target)


def _index(ranges_of_files: Iterable[Sequence[Sequence[Any]]]) -> dict[str, TensorRecord]:
    """Per parameter, its pieces in order. Asserts that they tile it: a hole would be our bug, found while it is new."""
    shapes: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[Piece]] = {}
    for file, ranges in enumerate(ranges_of_files):
        for name, shape, offset, length in ranges:
            shapes[name] = tuple(shape)
            pieces.setdefault(name, []).append(Piece(file, offset, length))
    records = {}
    for name in sorted(pieces):
        ordered = tuple(sorted(pieces[name], key=lambda piece: piece.offset))
        records[name] = TensorRecord(shapes[name], ordered)
        end = 0
        for piece in ordered:
            assert piece.offset == end, f"{name}: a piece starts at {piece.offset}, the one before ends at {end}"
            end += piece.length
        assert end == records[name].num_elements, f"{name}: pieces cover {end} of {records[name].num_elements} elements"
    return records


def _point_latest(checkpoints: Path, target: Path) -> None:
    """Keep a link to the newest for people; nothing ever reads it."""
    beside = checkpoints / ".latest.new"
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name)
    beside.rename(checkpoints / "latest")


def _tidy_up(checkpoints: Path, newest_step: int, keep_last: int) -> None:
    """Rank 0 only. Point `latest` at the checkpoint just written, and remove all but `keep_last` up to it.

    Later ones are damaged and were passed over: counting them could remove the only good one. The manifest goes first,
    so that a half-removed checkpoint no longer exists.
    """
    _point_latest(checkpoints, step_directory(checkpoints, newest_step))
    written = [step for step in list_steps(checkpoints) if step <= newest_step]
    for step in written[:-keep_last]:
        directory = step_directory(checkpoints, step)
        (directory / MANIFEST_NAME).unlink()
        shutil.rmtree(directory, ignore_errors=True)
