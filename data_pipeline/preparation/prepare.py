"""`llama-dist data prepare`: runs the tasks of a plan and, last of all, writes the manifest.

Until the manifest is there no dataset exists, whatever else lies in the directory. Decides nothing about the
tasks: that is `plan.py`.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from data_pipeline.config import PreparationConfig
from data_pipeline.durable_file import is_unfinished, write_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    PACKS_NAME,
    SHARDS_NAME,
    SOURCES_NAME,
    TOKENIZER_NAME,
    Manifest,
    fingerprint_shards,
    read_manifest,
    write_manifest,
)
from data_pipeline.preparation.plan import Plan, Task, make_plan
from data_pipeline.preparation.task import Advance, TaskResult, run_task
from data_pipeline.preparation.worker_pool import WorkerPool
from data_pipeline.progress import show_progress
from data_pipeline.shard_files import check_shard_size
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.transforms.counts import add_counts

_LOCK_NAME = ".lock"
_OUR_NAMES = {MANIFEST_NAME, INDEX_NAME, PACKS_NAME, SHARDS_NAME, SOURCES_NAME, TOKENIZER_NAME, _LOCK_NAME}
_SHARD_NAME = re.compile(r"^(train|validation)-\d{5,}-\d{3,}\.arrow(\.tmp-\d+)?$")


@dataclass(frozen=True)
class Prepared:
    """The dataset that is there now."""

    manifest: Manifest
    was_there: bool
    """Whether it was complete before, and nothing was done."""


def prepare_dataset(
    inputs: Sequence[Path], tokenizer_path: Path, output: Path, config: PreparationConfig, *, num_workers: int
) -> Prepared:
    """Tokenize `inputs` into a dataset under `output`. Byte-identical for any `num_workers`.

    Raises DataError for bad input or another dataset at `output`, StorageError where the disk refuses.
    """
    tokenizer = Tokenizer.load(tokenizer_path)
    plan = make_plan(inputs, tokenizer, config)
    with _locked(output):
        if (output / MANIFEST_NAME).exists():
            return Prepared(_check_same_preparation(output, plan), was_there=True)
        _clear_leftovers(output)
        write_durably(output / TOKENIZER_NAME, tokenizer_path.read_bytes())
        results = _run_tasks(plan, output, num_workers)
        return Prepared(_finish(plan, output, results), was_there=False)


def default_num_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class _Work:
    """What a worker process is told once, and then does for each task."""

    plan: Plan
    output: Path

    def __call__(self, task: Task, advance: Callable[[Sequence[int]], None]) -> TaskResult:
        # The dataset's own copy, loaded per task in milliseconds: nobody changes it under a long preparation.
        tokenizer = Tokenizer.load(self.output / TOKENIZER_NAME)
        if tokenizer.fingerprint != self.plan.tokenizer.checksum:
            raise DataError(f"{self.plan.tokenizer_path}: changed while the preparation started: start again")

        def report(done: Advance) -> None:
            advance((done.num_source_bytes, done.num_text_bytes, done.num_tokens))

        return run_task(self.plan, task, self.output, tokenizer, report)


def _run_tasks(plan: Plan, output: Path, num_workers: int) -> list[TaskResult]:
    # A worker gets its tasks one by one: the lists of a large corpus would only be copied to each.
    told = replace(plan, tasks=(), files=(), sources_listing=b"")
    pool = WorkerPool[Task, TaskResult](_Work(told, output), num_workers, num_counters=3)
    with show_progress("preparing", plan.num_source_bytes) as progress:
        results = list(pool.run(plan.tasks, lambda totals: progress.update(*totals)))
    return sorted(results, key=lambda result: result.number)


def _finish(plan: Plan, output: Path, results: list[TaskResult]) -> Manifest:
    train = [shard for result in results for shard in result.train]
    validation = [shard for result in results for shard in result.validation]
    num_empty = sum(result.num_skipped_empty for result in results)
    num_invalid = sum(result.num_skipped_invalid_utf8 for result in results)
    transforms = add_counts(result.transforms for result in results)
    num_dropped = sum(sum(count.dropped.values()) for count in transforms)
    if not train and not validation:
        raise DataError(
            f"empty corpus: {plan.sources.num_files} files hold no document "
            f"({num_empty} empty, {num_invalid} not UTF-8, {num_dropped} dropped by transforms): "
            "check the inputs, --glob, --text-field and --transforms"
        )
    manifest = Manifest(
        fingerprint=fingerprint_shards(train, validation, plan.tokenizer, plan.token_dtype),
        tokenizer=plan.tokenizer,
        token_dtype=plan.token_dtype,
        preparation=plan.config,
        preparation_hash=plan.preparation_hash,
        sources=plan.sources,
        num_skipped_empty=num_empty,
        num_skipped_invalid_utf8=num_invalid,
        transforms=transforms,
        train=train,
        validation=validation,
    )
    write_durably(output / SOURCES_NAME, plan.sources_listing)
    write_manifest(output, manifest)
    return manifest


def _check_same_preparation(output: Path, plan: Plan) -> Manifest:
    """Return the manifest of the complete dataset at `output`. Raises DataError if it is another one."""
    manifest = read_manifest(output)
    if manifest.preparation_hash != plan.preparation_hash:
        differences = "\n".join(f"  {line}" for line in _differences(manifest, plan))
        raise DataError(
            f"{output}: holds a dataset that was prepared otherwise:\n{differences}\n"
            "  choose another --output, or remove that directory if nothing needs it"
        )
    written_seconds = (output / MANIFEST_NAME).stat().st_mtime
    changed = next((file for file in plan.files if file.path.stat().st_mtime > written_seconds), None)
    if changed is not None:
        raise DataError(
            f"{changed.path}: changed after {output} was prepared from it, with its size kept: "
            "choose another --output, or remove that directory if nothing needs it"
        )
    for shard in manifest.all_shards():
        check_shard_size(output, shard)
    return manifest


def _differences(manifest: Manifest, plan: Plan) -> Iterator[str]:
    pairs: list[tuple[str, object, object]] = [("tokenizer", manifest.tokenizer.checksum, plan.tokenizer.checksum)]
    there, asked = manifest.preparation.model_dump(), plan.config.model_dump()
    pairs += [(name, there[name], asked[name]) for name in there]
    pairs.append(("sources", manifest.sources, plan.sources))
    for name, old, new in pairs:
        if old != new:
            yield f"{name}: there {old}, asked for {new}"


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the directory for this process alone; the lock goes with the process, however that ends."""
    with _open_lock(output) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{output}: another process is preparing data in it: wait for it, or end it") from None
        yield


def _open_lock(output: Path) -> BinaryIO:
    try:
        foreign = [child.name for child in output.iterdir() if not _is_ours(child.name)] if output.exists() else []
        if foreign:
            raise DataError(
                f"{output}: holds other things ({', '.join(sorted(foreign)[:3])}): give --output a directory of its own"
            )
        (output / SHARDS_NAME).mkdir(parents=True, exist_ok=True)
        return (output / _LOCK_NAME).open("wb")
    except OSError as error:
        raise StorageError(f"{output}: cannot be written: {error.strerror or error}") from None


def _is_ours(name: str) -> bool:
    return name in _OUR_NAMES or is_unfinished(name)


def _clear_leftovers(output: Path) -> None:
    """Remove what an interrupted preparation left: without a manifest nobody can be reading it."""
    for child in (output / SHARDS_NAME).iterdir():
        if not _SHARD_NAME.match(child.name):
            raise DataError(f"{child}: not a file of a preparation: give --output a directory of its own")
        child.unlink()
    for child in output.iterdir():
        if is_unfinished(child.name):
            child.unlink()
