"""The thread that fetches what a stream reads next, while there is room. Decides nothing about the order."""

import contextlib
import os
import threading
import weakref
from collections.abc import Sequence

from data_pipeline.stores.cache_directory import NoRoomError, NoRoomYetError
from data_pipeline.stores.windows import PlannedBatch

# How soon to look again at what another process is fetching.
_RETRY_SECONDS = 0.2
# An exit does not wait longer for a fetch; what it leaves half is removed by the next process.
_STOP_SECONDS = 1.0


class Prefetcher:
    """One daemon thread. It ends with its owner, with `close`, and with the process."""

    def __init__(self) -> None:
        self._work = _Work()
        self._finalizer = weakref.finalize(self, self._work.stop)

    def follow(self, plan: Sequence[PlannedBatch]) -> None:
        """Fetch the batches of `plan` in their order, instead of any former plan."""
        self._work.begin(plan)

    def raise_error(self) -> None:
        """Raise, in the calling thread, what ended the fetching."""
        if self._work.error is not None:
            raise self._work.error

    def close(self) -> None:
        """End the thread, or leave it behind where it hangs in a fetch."""
        self._finalizer()


class _Work:
    """What the thread and its owner share. Knows no owner, so that the owner can be forgotten."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._plan: Sequence[PlannedBatch] = ()
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def begin(self, plan: Sequence[PlannedBatch]) -> None:
        with self._changed:
            self._plan = plan
            if self._thread is None and not self._is_stopped:
                self._thread = threading.Thread(target=self._run, name="shard prefetch", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            done: Sequence[PlannedBatch] = ()
            while not self._is_stopped:
                plan = self._plan
                is_done = self._fetch(plan)
                done = plan if is_done else done
                with self._changed:
                    if self._plan is plan and not self._is_stopped:
                        self._changed.wait(None if is_done else _RETRY_SECONDS)
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that reads)
            self.error = error

    def _fetch(self, plan: Sequence[PlannedBatch]) -> bool:
        """Fetch what is absent; answers False if another process was at some of it, or held the room for it."""
        num_left = 0
        for batch in plan:
            if self._is_stopped or self._plan is not plan:
                return False
            try:
                is_there = batch.files.fetch(
                    batch.shard_number, batch.batch_number, next_use=batch.next_use, is_patient=False
                )
            except NoRoomYetError:
                return False
            except NoRoomError:
                # What is left is used later than all that is there.
                return not num_left
            num_left += not is_there
            if is_there:
                # So that streams which do not know this one evict other files first.
                with contextlib.suppress(FileNotFoundError):
                    os.utime(batch.files.path(batch.shard_number, batch.batch_number))
        return not num_left
