"""Runs tasks on worker processes that cannot outlive their parent, and hears of one that dies.

Results come in any order. A worker's fault is raised here, and the others are stopped. Knows nothing of the work.
"""

import ctypes
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray
from typing import Any, Generic, TypeVar

from data_pipeline.config import ReportedError
from data_pipeline.errors import WorkerLostError

TaskType = TypeVar("TaskType")
ResultType = TypeVar("ResultType")
Counters = Any
"""Shared array of int64: a row per worker, written by that worker alone, so no lock can be left held."""

Work = Callable[[TaskType, Callable[[Sequence[int]], None]], ResultType]
"""Does one task; calls its second argument with what to add to the counters."""

# How often the caller is told of the progress while no task ends.
_TICK_SECONDS = 0.2


class StoppedError(Exception):
    """Raised inside a worker whose parent has gone."""


class WorkerPool(Generic[TaskType, ResultType]):
    """`num_workers` processes, or none for one worker: then the tasks run here."""

    def __init__(self, work: Work[TaskType, ResultType], num_workers: int, num_counters: int) -> None:
        self._work = work
        self._num_workers = num_workers
        self._num_counters = num_counters

    def run(self, tasks: Sequence[TaskType], on_progress: Callable[[Sequence[int]], None]) -> Iterator[ResultType]:
        """Yield a result per task as they end; `on_progress` is called with the counters' sums so far."""
        if self._num_workers == 1 or len(tasks) <= 1:
            yield from self._run_here(tasks, on_progress)
        else:
            yield from self._run_apart(tasks, on_progress)

    def _run_here(
        self, tasks: Sequence[TaskType], on_progress: Callable[[Sequence[int]], None]
    ) -> Iterator[ResultType]:
        totals = [0] * self._num_counters

        def advance(amounts: Sequence[int]) -> None:
            for number, amount in enumerate(amounts):
                totals[number] += amount
            on_progress(totals)

        for task in tasks:
            yield self._work(task, advance)

    def _run_apart(
        self, tasks: Sequence[TaskType], on_progress: Callable[[Sequence[int]], None]
    ) -> Iterator[ResultType]:
        num_workers = min(self._num_workers, len(tasks))
        counters = RawArray(ctypes.c_int64, num_workers * self._num_counters)
        # Spawned, not forked: a fork would copy the locks of threads that it does not copy.
        context = multiprocessing.get_context("spawn")
        workers: dict[Connection, SpawnProcess] = {}
        try:
            for number in range(num_workers):
                ours, theirs = context.Pipe()
                row = (number * self._num_counters, self._num_counters)
                worker = context.Process(target=_serve, args=(theirs, self._work, counters, row), daemon=True)
                worker.start()
                theirs.close()
                workers[ours] = worker
            yield from self._deal(tasks, workers, lambda: on_progress(self._sums(counters)))
        finally:
            for connection, worker in workers.items():
                connection.close()
                worker.terminate()
            for worker in workers.values():
                worker.join()

    def _deal(
        self, tasks: Sequence[TaskType], workers: dict[Connection, SpawnProcess], tick: Callable[[], None]
    ) -> Iterator[ResultType]:
        waiting = iter(tasks)
        busy = set()
        for connection, worker in workers.items():
            _send(connection, worker, next(waiting))
            busy.add(connection)
        while busy:
            ready = wait(list(busy), timeout=_TICK_SECONDS)
            tick()
            for connection in [connection for connection in busy if connection in ready]:
                yield _receive(connection, workers[connection])
                task = next(waiting, None)
                if task is None:
                    busy.discard(connection)
                else:
                    _send(connection, workers[connection], task)

    def _sums(self, counters: Counters) -> list[int]:
        return [sum(counters[number :: self._num_counters]) for number in range(self._num_counters)]


def _send(connection: Connection, worker: SpawnProcess, task: Any) -> None:
    try:
        connection.send(task)
    except OSError:
        raise _lost(worker) from None


def _receive(connection: Connection, worker: SpawnProcess) -> Any:
    try:
        answer, value = connection.recv()
    except (EOFError, OSError):
        raise _lost(worker) from None
    if answer == "reported":
        raise value
    if answer == "bug":
        raise RuntimeError(f"worker process {worker.pid} failed:\n{value}")
    return value


def _lost(worker: SpawnProcess) -> WorkerLostError:
    worker.join()
    return WorkerLostError(
        f"worker process {worker.pid} ended without an answer (exit code {worker.exitcode}; -9 is most often "
        "memory running out): start again, with fewer --workers"
    )


def _serve(connection: Connection, work: Work[Any, Any], counters: Counters, row: tuple[int, int]) -> None:
    """Answer tasks until the parent closes the connection or is gone."""
    # Ctrl-C reaches the whole process group; the parent ends the workers in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def advance(amounts: Sequence[int]) -> None:
        if parent is not None and not parent.is_alive():
            raise StoppedError
        for number, amount in enumerate(amounts):
            counters[row[0] + number] += amount

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("done", work(task, advance)))
        except StoppedError:
            return
        except ReportedError as error:
            connection.send(("reported", error))
        except Exception:  # noqa: BLE001  (the process edge: told to the parent, which raises it)
            connection.send(("bug", traceback.format_exc()))
