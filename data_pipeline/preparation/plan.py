"""Decides what a preparation does: which tasks, in which order, and by what hash it is known. Writes nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_pipeline.augmentation.augmented_encoder import check_augmentation
from data_pipeline.config import PreparationConfig
from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError
from data_pipeline.manifest import SourcesEntry, TokenizerEntry
from data_pipeline.preparation.inputs import InputFile, Piece, find_inputs, look_at, split_into_pieces
from data_pipeline.preparation.task_record import PlanRecord
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.transforms.stop_word_lists import with_recorded_words

# Enough tasks for every worker to end at about the same time; none so small that its shards are crumbs, none so
# large that its shards pass 256 MiB of ids (about 4 bytes of text a token, 2 bytes an id).
_TASKS_OF_A_CORPUS = 64
_LEAST_TASK_BYTES = 4 * 1024 * 1024
_MOST_TASK_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Task:
    """Pieces that one worker reads in order, into shards of their own."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its pieces on disk."""
        return sum(piece.num_bytes for piece in self.pieces)


@dataclass(frozen=True)
class Plan:
    """Everything that a preparation needs to know, the same for every number of workers."""

    config: PreparationConfig
    tokenizer_path: Path
    tokenizer: TokenizerEntry
    token_dtype: Literal["uint16", "uint32"]
    tasks: tuple[Task, ...]
    files: tuple[InputFile, ...]
    sources: SourcesEntry
    sources_listing: bytes
    preparation_hash: str

    def record(self, num_workers: int) -> PlanRecord:
        """Return what a rerun, and the manifest, need to know of it."""
        return PlanRecord(
            preparation=self.config,
            preparation_hash=self.preparation_hash,
            tokenizer=self.tokenizer,
            token_dtype=self.token_dtype,
            sources=self.sources,
            source_versions=checksum_bytes("\n".join(file.changed for file in self.files).encode()),
            num_tasks=len(self.tasks),
            num_workers=num_workers,
        )

    def without_lists(self) -> "Plan":
        """Return what a worker process needs to know: it gets its tasks one by one, and the lists of a large corpus
        would only be copied to each.
        """
        return replace(self, tasks=(), files=(), sources_listing=b"")

    @property
    def num_source_bytes(self) -> int:
        """Bytes of the input files on disk."""
        return self.sources.num_bytes


def make_plan(inputs: Sequence[Path | str], tokenizer: Tokenizer, config: PreparationConfig) -> Plan:
    """Look at the inputs and cut them into tasks. Raises DataError where nothing can come of it."""
    _check_special_ids(tokenizer, config)
    check_augmentation(config.augmentation, tokenizer)
    config = config.model_copy(update={"transforms": with_recorded_words(config.transforms)})
    files = find_inputs(inputs, config.reading)
    task_bytes = config.task_bytes or _even_task_bytes(sum(file.num_bytes for file in files))
    pieces = [piece for file in files for piece in split_into_pieces(file, task_bytes)]
    listing = b"".join(
        json.dumps({"input": file.input_number, "name": file.name, "bytes": file.num_bytes}).encode() + b"\n"
        for file in files
    )
    entry = TokenizerEntry(
        checksum=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    return Plan(
        config=config,
        tokenizer_path=tokenizer.path,
        tokenizer=entry,
        token_dtype=tokenizer.token_dtype,
        tasks=_group(pieces, task_bytes),
        files=tuple(files),
        sources=SourcesEntry(
            num_files=len(files), num_bytes=sum(file.num_bytes for file in files), checksum=checksum_bytes(listing)
        ),
        sources_listing=listing,
        preparation_hash=_hash_preparation(config, entry, listing),
    )


def check_unchanged(task: Task) -> None:
    """Raise DataError if a file of `task` has another size, or was changed, since the plan was made."""
    for file in {piece.path: piece.file for piece in task.pieces}.values():
        num_bytes, changed = look_at(file.path, file.kind)
        if (num_bytes, changed) != (file.num_bytes, file.changed):
            raise DataError(
                f"{file.place}: changed while it was prepared: {file.num_bytes} bytes at the start, {num_bytes} now, "
                f"changed at {file.changed} and {changed} (ns): wait until nobody writes to it, and start again with "
                "--restart"
            )


def _check_special_ids(tokenizer: Tokenizer, config: PreparationConfig) -> None:
    for is_added, token_id, name in (
        (config.adds_bos, tokenizer.bos_id, "beginning"),
        (config.adds_eos, tokenizer.eos_id, "end"),
    ):
        if is_added and token_id is None:
            raise DataError(
                f"{tokenizer.path}: the tokenizer has no {name}-of-sequence id, and documents were to carry it: "
                f"use --no-{'bos' if name == 'beginning' else 'eos'}, or another tokenizer"
            )


def _even_task_bytes(num_bytes: int) -> int:
    return min(max(num_bytes // _TASKS_OF_A_CORPUS, _LEAST_TASK_BYTES), _MOST_TASK_BYTES)


def _group(pieces: list[Piece], task_bytes: int) -> tuple[Task, ...]:
    groups: list[list[Piece]] = [[]]
    num_bytes = 0
    for piece in pieces:
        if groups[-1] and num_bytes + piece.num_bytes > task_bytes:
            groups.append([])
            num_bytes = 0
        groups[-1].append(piece)
        num_bytes += piece.num_bytes
    return tuple(Task(number, tuple(group)) for number, group in enumerate(groups))


def _hash_preparation(config: PreparationConfig, tokenizer: TokenizerEntry, listing: bytes) -> str:
    values = {"config": config.model_dump(mode="json"), "tokenizer": tokenizer.model_dump(mode="json")}
    return checksum_bytes(json.dumps(values, sort_keys=True).encode() + b"\n" + listing)
