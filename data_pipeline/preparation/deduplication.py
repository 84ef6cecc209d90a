"""Finds, before a corpus is tokenized, which of its documents are the first of their text: exactly, by their hashes.

Every task is read once for the hashes of its documents as they stand where `deduplicate` does; when those of all tasks
are there, one process compares them and leaves a bit for each document. First is what comes first by task and, in it,
by document: nothing else matters, so the result does not depend on workers, machines or kills. Drops nothing itself:
that is done when the tasks are read again (`task.py`).

Memory: a task holds 2**20 hashes at a time. The comparison holds a bit for each document, and the hashes that share
a range of first bytes at a time, at some 80 bytes each: 2 million, or a 256th of all where that is more.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import DataError
from data_pipeline.preparation.document_hashes import (
    HASH_BYTES,
    NUM_BUCKETS,
    HashFile,
    hashes_path,
    numbers_of_hash_files,
    read_hash_file,
    read_kept,
    write_hash_file,
    write_kept,
)
from data_pipeline.preparation.documents import DocumentReader
from data_pipeline.preparation.plan import Plan, Task, check_unchanged
from data_pipeline.preparation.task import Advance, in_groups
from data_pipeline.preparation.work_directory import Share, lock_if_free
from data_pipeline.preparation.worker_pool import WorkerPool
from data_pipeline.progress import print_note, show_progress
from data_pipeline.transforms.chain import TransformChain
from data_pipeline.transforms.deduplication import split_at_deduplication, text_hash

_LOCK_NAME = "compare.lock"
# Hides the reading of many small pieces; 160 MB of memory.
_HASHES_AT_A_TIME = 2_000_000
_POLL_SECONDS = 0.5
# As often as a preparation tells its progress to a log.
_LINE_SECONDS = 10.0


def find_duplicates(plan: Plan, output: Path, share: Share, num_workers: int) -> None:
    """Leave on disk which documents stay, for every task of the plan; at once if it is there already.

    Reads the tasks of `share`, and waits for the other machines' as long as it takes, saying whose are missing.
    """
    if _is_decided(plan, output):
        return
    _hash_own_tasks(plan, output, share, num_workers)
    _wait_for_other_machines(len(plan.tasks), output, share)
    with _comparing(output):
        if not _is_decided(plan, output):
            _compare(plan, output)


def _is_decided(plan: Plan, output: Path) -> bool:
    return all(read_kept(output, task.number, plan.preparation_hash) is not None for task in plan.tasks)


@dataclass(frozen=True)
class _HashWork:
    """What a worker process is told once, and then does for each task."""

    plan: Plan
    output: Path

    def __call__(self, task: Task, advance: Callable[[Sequence[int]], None]) -> int:
        def report(done: Advance) -> None:
            advance((done.num_source_bytes, done.num_text_bytes))

        hash_task(self.plan, task, self.output, report)
        return task.number


def hash_task(plan: Plan, task: Task, output: Path, report: Callable[[Advance], None]) -> None:
    """Write the hash file of `task`; `report` is called every megabyte and may raise to stop.

    A file that is not what the plan saw, before or after it is read, is a DataError.
    """
    reader = DocumentReader(plan.config.reading)
    chain = TransformChain(split_at_deduplication(plan.config.transforms)[0])
    check_unchanged(task)
    with write_hash_file(output, task.number, plan.preparation_hash) as hashes:
        for documents in in_groups(document for piece in task.pieces for document in reader.read(piece)):
            for document in documents:
                text = chain.apply(document.text) if document.text else None
                if isinstance(text, str):
                    hashes.append(text_hash(text))
            report(Advance.of(documents, num_tokens=0))
        # Inside the block: the file does not appear if it raises.
        check_unchanged(task)


def _hash_own_tasks(plan: Plan, output: Path, share: Share, num_workers: int) -> None:
    tasks = [task for task in plan.tasks if share.has(task.number)]
    undone = [task for task in tasks if read_hash_file(output, task.number, plan.preparation_hash) is None]
    done_bytes = sum(task.num_bytes for task in tasks) - sum(task.num_bytes for task in undone)
    if len(undone) < len(tasks):
        print_note(f"{output}: {len(tasks) - len(undone)} of {len(tasks)} tasks were hashed before: going on")
    pool = WorkerPool[Task, int](_HashWork(plan.without_lists(), output), num_workers, num_counters=2)
    with show_progress("looking for duplicates", sum(task.num_bytes for task in tasks), done_bytes) as progress:
        for _ in pool.run(undone, lambda totals: progress.update(totals[0], totals[1], 0)):
            pass


def _wait_for_other_machines(num_tasks: int, output: Path, share: Share) -> None:
    waiting = _Waiting()
    while missing := sorted(set(range(num_tasks)) - numbers_of_hash_files(output)):
        workers = [number % share.count for number in missing]
        shares = ", ".join(f"{workers.count(index)} of --worker-index {index}" for index in sorted(set(workers)))
        waiting.wait(
            f"{output}: waiting for the hashes of {len(missing)} of {num_tasks} tasks: {shares} "
            f"(--num-workers {share.count}); it ends when those workers have read them"
        )


@contextmanager
def _comparing(output: Path) -> Iterator[None]:
    """Wait until no other process compares; it leaves what this one would."""
    waiting = _Waiting()
    while True:
        with lock_if_free(output, _LOCK_NAME) as is_held:
            if is_held:
                yield
                return
        waiting.wait(f"{output}: waiting for another worker that compares the hashes")


class _Waiting:
    """Pauses, with a line now and then."""

    def __init__(self) -> None:
        self._next_line_seconds = time.monotonic()

    def wait(self, line: str) -> None:
        if time.monotonic() >= self._next_line_seconds:
            self._next_line_seconds = time.monotonic() + _LINE_SECONDS
            print_note(line)
        time.sleep(_POLL_SECONDS)


def _compare(plan: Plan, output: Path) -> None:
    files = [_hash_file(plan, output, task.number) for task in plan.tasks]
    lengths = np.array([file.reached.num_documents for file in files], np.int64)
    # The bits of each task start at a byte of their own.
    starts = np.concatenate(([0], np.cumsum(-(-lengths // 8))))
    bits = np.full(starts[-1], 0xFF, np.uint8)
    with show_progress("comparing hashes", int(lengths.sum()) * HASH_BYTES) as progress:
        num_bytes = 0
        for first, stop in _bucket_ranges(int(lengths.sum())):
            hashes, places = _read_all(files, starts[:-1] * 8, first, stop)
            _clear(bits, places[find_repeated(hashes)])
            num_bytes += len(hashes) * HASH_BYTES
            progress.update(num_bytes, num_bytes, 0)
    for number, file in enumerate(files):
        write_kept(output, number, plan.preparation_hash, file.reached, bits[starts[number] : starts[number + 1]])


def find_repeated(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the indices of those of `hashes` uint64 [n, 2] that stand earlier in it too."""
    # A stable sort: of equal hashes the first stays first.
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    is_repeated = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    repeated: npt.NDArray[np.int64] = order[1:][is_repeated]
    return repeated


def _bucket_ranges(num_hashes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of first bytes, none with many more than the hashes to be held at a time."""
    num_ranges = 1
    while num_ranges < NUM_BUCKETS and num_hashes / num_ranges > _HASHES_AT_A_TIME:
        num_ranges *= 2
    width = NUM_BUCKETS // num_ranges
    for first in range(0, NUM_BUCKETS, width):
        yield first, first + width


def _read_all(
    files: Sequence[HashFile], starts: npt.NDArray[np.int64], first: int, stop: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the hashes of a range of first bytes in all tasks in order [n, 2], and their documents' bits [n]."""
    hashes, places = [], []
    for file, start in zip(files, starts, strict=True):
        of_task, numbers = file.read(first, stop)
        hashes.append(of_task)
        places.append(numbers + start)
    return np.concatenate(hashes), np.concatenate(places)


def _clear(bits: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> None:
    np.bitwise_and.at(bits, places >> 3, ~(np.uint8(0x80) >> (places & 7).astype(np.uint8)))


def _hash_file(plan: Plan, output: Path, number: int) -> HashFile:
    file = read_hash_file(output, number, plan.preparation_hash)
    if file is None:
        raise DataError(
            f"{hashes_path(output, number)}: damaged: end the workers of this preparation and start them again"
        )
    return file
