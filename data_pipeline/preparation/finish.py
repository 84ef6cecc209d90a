"""Makes the dataset out of its tasks' records: whoever ends last writes the manifest, exactly once."""

import shutil
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.manifest import MANIFEST_NAME, Manifest, fingerprint_shards, read_manifest, write_manifest
from data_pipeline.preparation.task_record import TASKS_NAME, PlanRecord, TaskResult, read_plan, read_result
from data_pipeline.preparation.work_directory import finishing, missing_tasks
from data_pipeline.transforms.counts import add_counts

# Enough to see a pattern.
_MOST_TASKS_SHOWN = 20


def finish_if_done(output: Path) -> Manifest | None:
    """Write the manifest if every task is done, then remove the records. None if some are not.

    May be called by many processes at once: one writes, the others read what it wrote.
    """
    with finishing(output):
        if (output / MANIFEST_NAME).exists():
            return read_manifest(output)
        plan = read_plan(output)
        if plan is None or missing_tasks(output, plan.num_tasks):
            return None
        results = [read_result(output, number, plan.preparation_hash) for number in range(plan.num_tasks)]
        whole = [result for result in results if result is not None]
        if len(whole) < plan.num_tasks:
            return None
        manifest = _manifest(output, plan, whole)
        write_manifest(output, manifest)
        remove_records_of_dataset(output)
        return manifest


def finalize(output: Path) -> Manifest:
    """`llama-dist data finalize`: as `finish_if_done`, but raises DataError that says which tasks are missing."""
    if (output / MANIFEST_NAME).exists():
        return read_manifest(output)
    plan = read_plan(output)
    if plan is None:
        raise DataError(f"{output}: holds no preparation to finish: run `llama-dist data prepare` into it first")
    manifest = finish_if_done(output)
    if manifest is None:
        raise DataError(f"{output}: {describe_missing(output, plan)}: start those workers again, then finalize")
    return manifest


def describe_missing(output: Path, plan: PlanRecord) -> str:
    """Say which tasks are not done, and whose they are."""
    numbers = range(plan.num_tasks)
    missing = [number for number in numbers if read_result(output, number, plan.preparation_hash) is None]
    shown = ", ".join(map(str, missing[:_MOST_TASKS_SHOWN])) + (", ..." if len(missing) > _MOST_TASKS_SHOWN else "")
    workers = ", ".join(map(str, sorted({number % plan.num_workers for number in missing})))
    return (
        f"{len(missing)} of {plan.num_tasks} tasks are not done: {shown} "
        f"(of --worker-index {workers}, --num-workers {plan.num_workers})"
    )


def remove_records_of_dataset(output: Path) -> None:
    """Remove what only an unfinished preparation needs."""
    shutil.rmtree(output / TASKS_NAME, ignore_errors=True)


def _manifest(output: Path, plan: PlanRecord, results: list[TaskResult]) -> Manifest:
    train = [shard for result in results for shard in result.train]
    validation = [shard for result in results for shard in result.validation]
    num_empty = sum(result.num_skipped_empty for result in results)
    num_invalid = sum(result.num_skipped_invalid_utf8 for result in results)
    transforms = add_counts(result.transforms for result in results)
    num_dropped = sum(sum(count.dropped.values()) for count in transforms)
    if not train and not validation:
        raise DataError(
            f"{output}: empty corpus: {plan.sources.num_files} files hold no document "
            f"({num_empty} empty, {num_invalid} not UTF-8, {num_dropped} dropped by transforms): "
            "check the inputs, --glob, --text-field and --transforms"
        )
    return Manifest(
        fingerprint=fingerprint_shards(train, validation, plan.tokenizer, plan.token_dtype),
        tokenizer=plan.tokenizer,
        token_dtype=plan.token_dtype,
        preparation=plan.preparation,
        preparation_hash=plan.preparation_hash,
        sources=plan.sources,
        num_skipped_empty=num_empty,
        num_skipped_invalid_utf8=num_invalid,
        transforms=transforms,
        train=train,
        validation=validation,
    )
