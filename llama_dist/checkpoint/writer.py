"""Saves a run beside its training: a snapshot on the caller's thread, then the transaction on a thread of its own.

One save at a time. What a save says, and what becomes of its alerts, is the keeper's.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llama_dist.checkpoint.disk import write_synced
from llama_dist.checkpoint.host_memory import check_staging_fits
from llama_dist.checkpoint.manifest import FileRecord, Manifest, TensorRecord, step_directory
from llama_dist.checkpoint.read_back import NotReadBackError
from llama_dist.checkpoint.save import layout_of, live_tensors, owned_partitions, ranges_of, rank_file_name, write_live
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.staging import StagingBuffer
from llama_dist.checkpoint.transaction import Contents, Range, WriteFiles, index_of, write_transaction
from llama_dist.parallel.engine import Engine, StatePartition
from llama_dist.runtime.fence import NO_FENCE, Fence
from llama_dist.runtime.process_group import peers_named

AfterPublication = Callable[[Path, Manifest], list[str]]
"""Called on every rank, in the writer's thread, with the directory of a checkpoint that exists now and its manifest,
whose `tensors` only leaders have. Answers what went wrong: alerts, since the save itself is done. Where it raises
NotReadBackError, on every rank alike, the save has failed."""


@dataclass(frozen=True)
class Written:
    """A checkpoint that exists."""

    step: int

    alerts: list[str]
    """What went wrong afterwards on any rank, in copying or removing."""


class CheckpointWriter:
    """Writes the checkpoints of one run. Collective: every rank calls every method but `poll` alike."""

    def __init__(
        self,
        checkpoints: Path,
        group: SaveGroup,
        after_publication: AfterPublication,
        *,
        is_asynchronous: bool,
        fence: Fence = NO_FENCE,
    ) -> None:
        self._checkpoints, self._group, self._after_publication = checkpoints, group, after_publication
        self._is_asynchronous, self._fence = is_asynchronous, fence
        self._ranges: list[Range] | None = None
        self._index: dict[str, TensorRecord] = {}
        self._buffer: StagingBuffer | None = None
        self._thread: threading.Thread | None = None
        self._outcome: Written | BaseException | None = None
        self._began_at: float | None = None
        self.last_seconds: float | None = None
        """From the last snapshot to the existence of its checkpoint, on this rank; None before the first."""

    @property
    def is_writing(self) -> bool:
        """Whether a save has begun that this rank has not finished. Ranks may differ for a moment."""
        return self._thread is not None and self._thread.is_alive()

    def seconds_left(self) -> float:
        """Judge by the last save how long the one under way takes until it exists: at least 1; 0 if there is none."""
        began_at = self._began_at  # the thread clears it
        if began_at is None:
            return 0.0
        return max(1.0, (self.last_seconds or 0.0) - (time.monotonic() - began_at))

    def prepare(self, engine: Engine) -> None:
        """Collective. Learn which ranges each rank holds: they stay as they are for the life of the engine.

        Raises ConfigError where the staged copies do not fit into a host's memory.
        """
        owned = owned_partitions(engine)
        layout = layout_of(owned)
        if self._is_asynchronous:
            check_staging_fits(layout.num_bytes, self._group)
            self._buffer = StagingBuffer(layout)
        self._ranges = ranges_of(owned)
        ranges_of_files = self._group.gather(self._ranges)
        if self._group.is_leader:
            self._index = index_of(ranges_of_files)

    def warm(self, engine: Engine) -> None:
        """Take the memory of the staged copy, in the background, so that the first save is as quick as the others."""
        device = next((tensor.device for tensor in live_tensors(owned_partitions(engine))), None)
        if self._buffer and device:
            self._buffer.warm(device)

    def begin(self, engine: Engine, contents: Contents) -> None:
        """Collective. Begin a save, the one before having been waited for. The state may change once this returns.

        Without `is_asynchronous` it returns when the checkpoint is written.
        """
        assert self._thread is None and self._outcome is None, "the last save was not waited for"
        if self._ranges is None:
            self.prepare(engine)
        owned = owned_partitions(engine)
        assert ranges_of(owned) == self._ranges, "the partitions have changed"
        self._began_at = time.monotonic()
        if self._buffer is None:
            self._run(contents, self._write_from_live(owned))
            return
        self._buffer.snapshot(list(live_tensors(owned)))
        # A daemon: a process that ends for another reason leaves the save undone, as a kill would.
        self._thread = threading.Thread(
            target=self._run, args=(contents, self._write_from(self._buffer)), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> Written | None:
        """Wait for the save that is under way, if any; answers as `poll`."""
        if self._thread:
            self._thread.join()
        return self.poll()

    def poll(self) -> Written | None:
        """Answer, once, what came of the last save if it has ended.

        Raises CheckpointError where a disk refused, PeerLostError where a rank was lost, FencedError where a newer
        attempt has begun, and what else the save met.
        """
        if self.is_writing:
            return None
        self._thread, outcome, self._outcome = None, self._outcome, None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _run(self, contents: Contents, write_files: WriteFiles) -> None:
        place = f"while the checkpoint of step {contents.progress.step} was written"
        try:
            with peers_named(self._group.world, lambda: place):
                self._outcome = self._write(contents, write_files)
        except BaseException as error:  # noqa: BLE001 - the thread's edge: raised again by `poll`
            self._outcome = error
        self._began_at = None

    def _write(self, contents: Contents, write_files: WriteFiles) -> Written:
        # Rank 0's word counts where the ranks may read differently: the manifests of all disks must be alike.
        tracking = self._group.gather(contents.progress.tracking)[0]
        contents = replace(contents, progress=replace(contents.progress, tracking=tracking))
        step = contents.progress.step
        manifest = write_transaction(
            self._checkpoints, self._group, contents, write_files, lambda: self._index, self._fence
        )
        assert self._began_at is not None
        self.last_seconds, self._began_at = time.monotonic() - self._began_at, None
        try:
            alerts = self._after_publication(step_directory(self._checkpoints, step), manifest)
        except NotReadBackError:
            raise  # on every rank: there is no such checkpoint any more
        except Exception as error:  # noqa: BLE001 - the checkpoint exists: nothing after it may fail the run
            alerts = [f"{type(error).__name__}: {error}"]
        # The ranks end together: one that is still copying is waited for here, and not in a collective of the training.
        told = {alert for of_rank in self._group.gather(alerts) for alert in of_rank}
        return Written(step, sorted(told))

    def _write_from(self, buffer: StagingBuffer) -> WriteFiles:
        def write_file(directory: Path) -> list[FileRecord]:
            path = directory / rank_file_name(self._group.rank)
            return [FileRecord(path.name, *write_synced(path, buffer.chunks()), self._group.host)]

        return write_file

    def _write_from_live(self, owned: list[StatePartition]) -> WriteFiles:
        def write_file(directory: Path) -> list[FileRecord]:
            path = directory / rank_file_name(self._group.rank)
            return [write_live(path, layout_of(owned), owned, self._group.host)]

        return write_file
