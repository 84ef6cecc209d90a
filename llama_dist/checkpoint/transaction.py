"""Writes a checkpoint as a transaction: the files, then one rename, then the manifest.

A crash at any instant leaves either the whole checkpoint or none, and the older ones untouched. What the files hold is
the caller's (`save.py`, `writer.py`).
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from llama_dist.checkpoint.disk import make_directory, remove_entry, sync_directory, write_synced
from llama_dist.checkpoint.manifest import (
    MASTER_AND_MOMENTS,
    TOKENIZER_NAME,
    FileRecord,
    Manifest,
    Piece,
    Progress,
    TensorRecord,
    finish_manifest,
    list_unfinished,
    prepare_manifest,
    step_directory,
)
from llama_dist.checkpoint.revocation import remove_leftovers, staging_directory
from llama_dist.checkpoint.save_group import NOTHING, SaveGroup, attempt
from llama_dist.runtime.fence import NO_FENCE, Fence

_NEW, _REPLACED = "new", "replaced"
"""In the staging directory: what becomes the checkpoint, and what it takes the place of."""

Range = Sequence[Any]
"""What a file holds of one parameter: name, shape of the whole, first element, number of elements."""

WriteFiles = Callable[[Path], list[FileRecord]]
"""Writes one member's files into the directory, synced, and answers their records."""

BuildIndex = Callable[[], dict[str, TensorRecord]]
"""Answers which file holds which range of each parameter."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint says beside its files; alike on every member."""

    progress: Progress
    scalars: dict[str, float]

    tokenizer: bytes
    """Content of the tokenizer's file; empty where there is none."""

    states: tuple[str, ...] = MASTER_AND_MOMENTS


def write_transaction(
    checkpoints: Path,
    group: SaveGroup,
    contents: Contents,
    write_files: WriteFiles,
    index: BuildIndex,
    fence: Fence = NO_FENCE,
) -> Manifest:
    """Collective. Write the checkpoint of `contents.progress.step`; answers its manifest.

    The files are numbered by member, in the order of their records. `index` is asked on the leaders alone, once all
    files are written: in what the others are answered, `tensors` is empty. Raises CheckpointError on every member if
    any failed, FencedError if a newer attempt than `fence.attempt` has begun; what was there before is untouched.
    """
    step = contents.progress.step
    staging = staging_directory(checkpoints, step, fence.attempt)
    only_leaders = group.is_leader
    try:
        group.agree(attempt(_prepare, checkpoints, staging, fence) if only_leaders else NOTHING)
        records = group.agree(attempt(_write, write_files, staging / _NEW))
        files = tuple(FileRecord(*values) for of_member in records for values in of_member)
        manifest = _manifest(contents, files, index() if only_leaders else {})
        group.agree(attempt(_move, staging, manifest, contents.tokenizer, fence) if only_leaders else NOTHING)
        # On every disk the files stand in their place before the first manifest says so.
        group.agree(attempt(_publish, step_directory(checkpoints, step), fence) if only_leaders else NOTHING)
    except BaseException:
        if only_leaders:  # a full disk is of no use to the metrics either
            shutil.rmtree(staging, ignore_errors=True)
        raise
    if only_leaders:  # with what it replaced
        with contextlib.suppress(OSError):  # the next save removes it, or tells what is wrong
            remove_entry(staging)
    return manifest


def index_of(ranges_of_files: Iterable[Iterable[Range]]) -> dict[str, TensorRecord]:
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


def point_latest(checkpoints: Path, target: Path) -> None:
    """Keep a link to the newest for people; nothing ever reads it."""
    beside = checkpoints / ".latest.new"
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name)
    beside.rename(checkpoints / "latest")


def _prepare(checkpoints: Path, staging: Path, fence: Fence) -> None:
    fence.check()
    make_directory(checkpoints)
    remove_leftovers(checkpoints, fence.attempt)
    staging.mkdir(mode=0o700)
    (staging / _NEW).mkdir(mode=0o700)
    for unfinished in list_unfinished(checkpoints):
        # By one rename first: a directory that is half removed would pass for a damaged checkpoint.
        aside = staging / unfinished.name
        unfinished.rename(aside)
        remove_entry(aside)


def _write(write_files: WriteFiles, staging: Path) -> list[list[Any]]:
    return [[one.name, one.num_bytes, one.checksum, one.host] for one in write_files(staging)]


def _manifest(contents: Contents, files: tuple[FileRecord, ...], tensors: dict[str, TensorRecord]) -> Manifest:
    if contents.tokenizer:  # of no host: every disk gets it
        checksum = xxhash.xxh3_128(contents.tokenizer).hexdigest()
        files = (*files, FileRecord(TOKENIZER_NAME, len(contents.tokenizer), checksum))
    return Manifest(
        **vars(contents.progress), scalars=contents.scalars, files=files, tensors=tensors, states=contents.states
    )


def _move(staging: Path, manifest: Manifest, tokenizer: bytes, fence: Fence) -> None:
    """Move the complete directory into place; its manifest still waits beside its name.

    Both renames fail once a newer attempt has taken the staging directory away, also in a process that was frozen
    after it looked at the fence.
    """
    new, target = staging / _NEW, step_directory(staging.parent, manifest.step)
    if tokenizer:
        write_synced(new / TOKENIZER_NAME, [tokenizer])
    prepare_manifest(new, manifest)
    fence.check()
    if os.path.lexists(target):
        # A damaged checkpoint of the same step, or what was put in its place: the run went back and is here again.
        target.rename(staging / _REPLACED)
    new.rename(target)
    sync_directory(staging.parent)


def _publish(directory: Path, fence: Fence) -> None:
    fence.check()
    finish_manifest(directory)
