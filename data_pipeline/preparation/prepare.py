"""`llama-dist data prepare`: runs the tasks of a plan that are not done yet and, last of all, writes the manifest.

Until the manifest is there no dataset exists, whatever else lies in the directory. Decides nothing about the
tasks (`plan.py`) and keeps no file of its own (`task_record.py`, `finish.py`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.config import PreparationConfig
from data_pipeline.durable_file import write_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import MANIFEST_NAME, SOURCES_NAME, TOKENIZER_NAME, Manifest, read_manifest
from data_pipeline.preparation.deduplication import find_duplicates
from data_pipeline.preparation.document_hashes import KeptDocuments, read_kept
from data_pipeline.preparation.finish import describe_missing, finish_if_done, remove_records_of_dataset
from data_pipeline.preparation.plan import Plan, Task, make_plan
from data_pipeline.preparation.task import Advance, run_task
from data_pipeline.preparation.task_record import (
    TASKS_NAME,
    PlanRecord,
    read_plan,
    read_result,
    remove_records,
    write_plan,
    write_result,
)
from data_pipeline.preparation.work_directory import (
    Share,
    WorkDirectory,
    count_shards,
    open_work_directory,
    remove_half_files,
    remove_leftovers,
    remove_shards,
)
from data_pipeline.preparation.worker_pool import WorkerPool
from data_pipeline.progress import print_note, show_progress
from data_pipeline.shard_files import check_shard_size
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.transforms.deduplication import has_deduplication


@dataclass(frozen=True)
class Prepared:
    """What there is now."""

    finished: Manifest | None
    """The dataset; None while other workers still have tasks to do."""

    was_there: bool
    """Whether it was complete before, and nothing was done."""

    waits_for: str = ""
    """What is not done yet, if anything."""

    @property
    def manifest(self) -> Manifest:
        """The dataset, for a caller that has no other workers."""
        assert self.finished is not None, self.waits_for
        return self.finished


def prepare_dataset(
    inputs: Sequence[Path | str],
    tokenizer_path: Path,
    output: Path,
    config: PreparationConfig,
    *,
    num_workers: int,
    share: Share | None = None,
    restart: bool = False,
) -> Prepared:
    """Tokenize `inputs` into a dataset under `output`, going on where an interrupted call ended.

    The result is byte-identical for any `num_workers`, any number of interruptions, and any number of machines that
    do a `share` each. `restart` discards what another preparation left unfinished. Raises DataError for bad input or
    another dataset at `output`, StorageError where the disk refuses.
    """
    share = share or Share()
    tokenizer = Tokenizer.load(tokenizer_path)
    plan = make_plan(inputs, tokenizer, config)
    with open_work_directory(output, share) as directory:
        if (output / MANIFEST_NAME).exists():
            manifest = _check_same_preparation(output, plan)
            if directory.is_alone:
                remove_records_of_dataset(output)
            return Prepared(manifest, was_there=True)
        record = plan.record(share.count)
        _set_up(directory, plan, record, tokenizer_path, restart)
        with directory.work():
            _check_plan_stays(output, record)
            _run_tasks(plan, output, share, num_workers)
            finished = finish_if_done(output)
            return Prepared(finished, was_there=False, waits_for="" if finished else describe_missing(output, record))


def default_num_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _check_plan_stays(output: Path, record: PlanRecord) -> None:
    """Raise DataError if another process set up its own plan while this one's lock changed from exclusive to shared."""
    there = read_plan(output)
    if there is not None and there != record:
        raise DataError(_refusal(output, there, record, "wait for the other process, or use another --output"))


def _set_up(directory: WorkDirectory, plan: Plan, record: PlanRecord, tokenizer_path: Path, restart: bool) -> None:
    """Leave in the directory this plan and what is finished of it, and nothing else."""
    output = directory.path
    num_shards = count_shards(output)
    if not directory.is_alone:
        there = read_plan(output)
        if there != record:
            raise DataError(_refusal(output, there, record, "wait for the other workers, or give all the same options"))
        return
    there = None if restart else read_plan(output)
    if there is not None and there.model_copy(update={"num_workers": record.num_workers}) == record:
        remove_half_files(output)
        if there != record:
            write_plan(output, record)
        return
    if num_shards and not restart:
        raise DataError(
            _refusal(
                output, there, record, f"finish it with its own options, or discard its {num_shards} shards: --restart"
            )
        )
    remove_records(output)
    remove_shards(output)
    remove_half_files(output)
    _write_start(output, plan, record, tokenizer_path)


def _write_start(output: Path, plan: Plan, record: PlanRecord, tokenizer_path: Path) -> None:
    try:
        (output / TASKS_NAME).mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{output / TASKS_NAME}: cannot be made: {error.strerror or error}") from None
    write_durably(output / TOKENIZER_NAME, tokenizer_path.read_bytes())
    write_durably(output / SOURCES_NAME, plan.sources_listing)
    write_plan(output, record)


def _refusal(output: Path, there: PlanRecord | None, asked: PlanRecord, remedy: str) -> str:
    if there is None:
        return f"{output}: holds shards, but neither a manifest nor the plan that they belong to: {remedy}"
    differences = "\n".join(f"  {line}" for line in _differences(there, asked))
    return f"{output}: holds an unfinished preparation of another kind:\n{differences}\n  {remedy}"


@dataclass
class _Work:
    """What a worker process is told once, and then does for each task."""

    plan: Plan
    output: Path
    _tokenizer: Tokenizer | None = field(default=None, init=False)

    def __call__(self, task: Task, advance: Callable[[Sequence[int]], None]) -> int:
        def report(done: Advance) -> None:
            advance((done.num_source_bytes, done.num_text_bytes, done.num_tokens))

        result = run_task(self.plan, task, self.output, self._loaded(), report, self._kept(task))
        write_result(self.output, result)
        return task.number

    def _kept(self, task: Task) -> KeptDocuments | None:
        if not has_deduplication(self.plan.config.transforms):
            return None
        kept = read_kept(self.output, task.number, self.plan.preparation_hash)
        if kept is None:
            raise DataError(f"{self.output}: damaged since its duplicates were found: start again")
        return kept

    def _loaded(self) -> Tokenizer:
        """Load the dataset's own copy, which nobody changes under a long preparation; its word cache is kept."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.load(self.output / TOKENIZER_NAME)
            if self._tokenizer.fingerprint != self.plan.tokenizer.checksum:
                raise DataError(f"{self.plan.tokenizer_path}: changed while the preparation started: start again")
        return self._tokenizer


def _run_tasks(plan: Plan, output: Path, share: Share, num_workers: int) -> None:
    tasks = [task for task in plan.tasks if share.has(task.number)]
    undone = [task for task in tasks if read_result(output, task.number, plan.preparation_hash) is None]
    remove_leftovers(output, {task.number for task in undone})
    if has_deduplication(plan.config.transforms):
        find_duplicates(plan, output, share, num_workers)
    done_bytes = sum(task.num_bytes for task in tasks) - sum(task.num_bytes for task in undone)
    if len(undone) < len(tasks):
        print_note(f"{output}: {len(tasks) - len(undone)} of {len(tasks)} tasks were done before: going on")
    pool = WorkerPool[Task, int](_Work(plan.without_lists(), output), num_workers, num_counters=3)
    with show_progress("preparing", sum(task.num_bytes for task in tasks), done_bytes) as progress:
        for _ in pool.run(undone, lambda totals: progress.update(*totals)):
            pass


def _check_same_preparation(output: Path, plan: Plan) -> Manifest:
    """Return the manifest of the complete dataset at `output`. Raises DataError if it is another one."""
    manifest = read_manifest(output)
    if manifest.preparation_hash != plan.preparation_hash:
        differences = "\n".join(f"  {line}" for line in _differences(manifest, plan.record(1)))
        raise DataError(
            f"{output}: holds a dataset that was prepared otherwise:\n{differences}\n"
            "  choose another --output, or remove that directory if nothing needs it"
        )
    written_ns = (output / MANIFEST_NAME).stat().st_mtime_ns
    changed = next((file for file in plan.files if file.changed_ns > written_ns), None)
    if changed is not None:
        raise DataError(
            f"{changed.place}: changed after {output} was prepared from it, with its size kept: "
            "choose another --output, or remove that directory if nothing needs it"
        )
    for shard in manifest.all_shards():
        check_shard_size(output, shard)
    return manifest


def _differences(there: Manifest | PlanRecord, asked: PlanRecord) -> Iterator[str]:
    pairs: list[tuple[str, object, object]] = [("tokenizer", there.tokenizer.checksum, asked.tokenizer.checksum)]
    old_config, new_config = there.preparation.model_dump(), asked.preparation.model_dump()
    pairs += [(name, old_config[name], new_config[name]) for name in old_config]
    pairs.append(("sources", there.sources, asked.sources))
    if isinstance(there, PlanRecord):
        pairs.append(("times at which the sources changed", there.source_versions, asked.source_versions))
        pairs.append(("--num-workers", there.num_workers, asked.num_workers))
    for name, old, new in pairs:
        if old != new:
            yield f"{name}: there {old}, asked for {new}"
