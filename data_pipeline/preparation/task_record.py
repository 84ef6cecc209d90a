"""The record that a finished task leaves, and the plan that it belongs to: what a rerun and a manifest are made from.

Both lie in `tasks/` until the manifest is written. A record is written after its shards are on disk, so that what
it names is there. Runs nothing.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from data_pipeline.config import ConfigError, PreparationConfig, StrictModel, parse_config
from data_pipeline.durable_file import write_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import ShardEntry, SourcesEntry, TokenizerEntry
from data_pipeline.sealed_json import seal, unseal
from data_pipeline.shard_files import check_shard_size
from data_pipeline.shard_index import Checksum, Count
from data_pipeline.transforms.counts import TransformCount

TASKS_NAME = "tasks"
PLAN_NAME = "plan.json"
_SEAL_KEY = "checksum"
Record = TypeVar("Record", bound=StrictModel)


class TaskResult(StrictModel):
    """What a task leaves: shards on disk and these entries for the manifest."""

    number: Count
    """The task."""

    preparation_hash: Checksum
    """The preparation that it belongs to."""

    train: list[ShardEntry]
    """Its shards of the training split, in order."""

    validation: list[ShardEntry]
    """Its shards of the held-out split, in order."""

    num_skipped_empty: Count
    """Documents left out because they held no text."""

    num_skipped_invalid_utf8: Count
    """Documents left out because they were not UTF-8."""

    transforms: list[TransformCount]
    """What each transform did."""


class PlanRecord(StrictModel):
    """A preparation under way: all that its manifest needs apart from the tasks' results."""

    version: Literal[1] = 1
    """Version of these files; they live no longer than a preparation."""

    preparation: PreparationConfig
    """How the text is prepared."""

    preparation_hash: Checksum
    """Hash over the preparation config, the tokenizer and the list of sources."""

    tokenizer: TokenizerEntry
    """The tokenizer of the ids."""

    token_dtype: Literal["uint16", "uint32"]
    """Width of a stored id."""

    sources: SourcesEntry
    """The input files."""

    source_versions: Checksum
    """Hash over when each input file was last changed."""

    num_tasks: Count
    """Tasks, numbered from 0."""

    num_workers: Annotated[int, Field(ge=1)]
    """The `--num-workers` that the tasks are dealt to: task number modulo this is the worker's index."""


def record_path(output: Path, number: int) -> Path:
    """Return where the record of a task lies."""
    return output / TASKS_NAME / f"{number:05d}.json"


def write_result(output: Path, result: TaskResult) -> None:
    """Write a task's record. The task is done from here on."""
    write_durably(record_path(output, result.number), seal(result.model_dump(mode="json"), _SEAL_KEY))


def read_result(output: Path, number: int, preparation_hash: str) -> TaskResult | None:
    """Read a task's record; None if the task is to be done (again): no record, a damaged one, or other shards."""
    path = record_path(output, number)
    try:
        result = _read(TaskResult, path)
        if result is None or (result.number, result.preparation_hash) != (number, preparation_hash):
            return None
        for shard in [*result.train, *result.validation]:
            check_shard_size(output, shard)
    except DataError:
        return None
    return result


def write_plan(output: Path, record: PlanRecord) -> None:
    """Write the plan, before any task starts."""
    write_durably(output / TASKS_NAME / PLAN_NAME, seal(record.model_dump(mode="json"), _SEAL_KEY))


def read_plan(output: Path) -> PlanRecord | None:
    """Read the plan of the preparation under way; None if there is none. Raises DataError if it is damaged."""
    return _read(PlanRecord, output / TASKS_NAME / PLAN_NAME)


def numbers_of_records(output: Path) -> set[int]:
    """Return the tasks that have a record, unread."""
    try:
        names = [child.stem for child in (output / TASKS_NAME).glob("*.json")]
    except OSError as error:
        raise StorageError(f"{output / TASKS_NAME}: cannot be listed: {error.strerror or error}") from None
    return {int(name) for name in names if name.isdigit()}


def remove_records(output: Path) -> None:
    """Remove the plan and every record, the plan last: whoever is killed here leaves a plan that can go on."""
    for number in numbers_of_records(output):
        record_path(output, number).unlink(missing_ok=True)
    shutil.rmtree(output / TASKS_NAME, ignore_errors=True)


def _read(model: type[Record], path: Path) -> Record | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    values: dict[str, Any] = unseal(path, content, _SEAL_KEY, remedy="use --restart to prepare everything again")
    try:
        return parse_config(model, values, where=str(path))
    except ConfigError as error:
        raise DataError(f"{error}: use --restart to prepare everything again") from None
