"""Copies checkpoints to a store behind any fsspec URL, in a thread of each rank's own. Removes nothing local.

Each rank copies its share of the files, and beside each a mark with its checksum; once all have theirs, the manifest
follows, and last comes a note on the local disk. No rank asks another: what they must know is in the store. A step that
the store has with other content, of when the run was here before, is replaced: first its manifest goes, then its files.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from llama_dist.checkpoint.disk import write_synced
from llama_dist.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointError,
    FileRecord,
    Manifest,
    read_manifest,
    read_manifest_file,
    step_directory,
)
from llama_dist.checkpoint.store import CheckpointStore
from llama_dist.runtime.fence import NO_FENCE, Fence, FencedError

Answer = TypeVar("Answer")

UPLOADED_NAME = "uploaded.json"
"""The local note beside the manifest: where the checkpoint was copied to."""

_MARK_SUFFIX = ".xxh3"
"""Of the file in the store that says, by its checksum, which content the file beside it has. Sizes do not tell:
a rank's file always has the same."""

_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.5, 30.0
_NUM_ATTEMPTS = 8
_POLL_SECONDS = 1.0
_PEERS_SECONDS = 3600.0
"""How long one rank waits for the others' files: copying may take them long, but not for ever."""


@dataclass(frozen=True)
class Share:
    """Which files this rank copies: every `count`-th of those on its disk, from the `index`-th on."""

    index: int
    count: int

    is_disk_leader: bool
    """Whether this rank leaves the note on its disk."""

    is_first: bool
    """Whether this rank copies the manifest."""

    is_shared_disk: bool = True
    """Whether every file must be on this rank's disk."""


def is_uploaded(directory: Path) -> bool:
    """Whether the whole checkpoint was copied to a store."""
    return (directory / UPLOADED_NAME).is_file()


class Uploader:
    """Copies one checkpoint after the other, the newest first.

    A store that fails is told, and tried again with the next checkpoint; a checkpoint that is damaged here, or whose
    files the other ranks did not bring, is told, and not tried again: it would hold up those after it.
    """

    def __init__(self, store: CheckpointStore, share: Share, fence: Fence = NO_FENCE) -> None:
        self._store, self._share, self._fence = store, share, fence
        self._waiting: dict[str, Path] = {}
        self._files: dict[str, tuple[FileRecord, ...]] = {}
        self._given_up: set[str] = set()
        self._alerts: list[str] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    def submit(self, directories: list[Path], newest: Manifest | None = None) -> None:
        """Copy these as well, where that is not done; returns at once.

        `newest` is the manifest of one of them, which need not be read again then; of it the files suffice.
        """
        waiting = {directory.name: directory for directory in directories if not is_uploaded(directory)}
        with self._changed:
            self._waiting |= {name: path for name, path in waiting.items() if name not in self._given_up}
            if newest:
                self._files = {step_directory(Path(), newest.step).name: newest.files}
            self._changed.notify_all()

    def take_alerts(self) -> list[str]:
        """Return what could not be copied since the last call."""
        with self._changed:
            alerts, self._alerts = self._alerts, []
        return alerts

    def finish(self, timeout_seconds: float) -> None:
        """Wait until all is copied or given up, at most so long; what is left is for the next attempt of the run."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait()
                directory = self._waiting.pop(max(self._waiting))
            try:
                self._copy(directory)
            except CheckpointError as error:
                self._given_up.add(directory.name)
                self._tell(f"{directory.name} was not copied to {self._store.url}: {error}: not tried again for now")
            except OSError as error:
                self._tell(f"{directory.name} was not copied to {self._store.url}: {error}. It stays on the local disk")
            except Exception as error:  # noqa: BLE001 - each store has errors of its own; none may end the training
                self._tell(f"{directory.name} was not copied to {self._store.url}: {type(error).__name__}: {error}")

    def _tell(self, alert: str) -> None:
        with self._changed:
            self._alerts.append(alert)

    def _copy(self, directory: Path) -> None:
        step, content = directory.name, read_manifest_file(directory)
        files = self._files.get(step) or read_manifest(directory).files
        here = self._files_here(directory, files)
        if persist(lambda: self._store.read(step, MANIFEST_NAME)) != content:
            for record in here[self._share.index :: self._share.count]:
                self._copy_file(directory, record)
            if self._share.is_first:
                self._wait(lambda: all(self._has(step, record) for record in files), f"all files of {step}")
                persist(lambda: self._put(directory / MANIFEST_NAME, step))
        if self._share.is_disk_leader:
            self._wait(
                lambda: (
                    self._store.size(step, MANIFEST_NAME) == len(content)
                    and self._store.read(step, MANIFEST_NAME) == content
                ),
                f"the manifest of {step}",
            )
            note = json.dumps({"url": self._store.url, "time": time.time()}).encode()
            self._fence.check()
            beside = directory / f".{UPLOADED_NAME}.new"
            write_synced(beside, [note])
            beside.rename(directory / UPLOADED_NAME)

    def _files_here(self, directory: Path, files: Sequence[FileRecord]) -> list[FileRecord]:
        """The files on this disk. Raises CheckpointError where one is not as the manifest says: nobody waits for it."""
        here = [record for record in files if (directory / record.name).is_file()]
        if self._share.is_shared_disk and len(here) < len(files):
            lost = next(record for record in files if record not in here)
            raise CheckpointError(f"{directory / lost.name}: is missing: the checkpoint is damaged")
        for record in here:
            num_bytes = (directory / record.name).stat().st_size
            if num_bytes != record.num_bytes:
                raise CheckpointError(
                    f"{directory / record.name}: {num_bytes} bytes, the manifest says {record.num_bytes}"
                )
        return here

    def _copy_file(self, directory: Path, record: FileRecord) -> None:
        step, mark = directory.name, record.name + _MARK_SUFFIX
        if persist(lambda: self._has(step, record)):
            return
        self._fence.check()
        for name in (MANIFEST_NAME, mark):  # they may speak of the content that is replaced here
            persist(partial(self._store.remove, step, name))
        persist(lambda: self._put(directory / record.name, step))
        persist(lambda: self._store.write(record.checksum.encode(), step, mark))

    def _put(self, path: Path, step: str) -> None:
        self._fence.check()
        self._store.put(path, step)

    def _has(self, step: str, record: FileRecord) -> bool:
        """Whether the store has this very content of a file."""
        return self._store.read(step, record.name + _MARK_SUFFIX) == record.checksum.encode()

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PEERS_SECONDS
        while not persist(is_so):
            if time.monotonic() > deadline:
                raise CheckpointError(f"the other ranks did not copy {what} within {_PEERS_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS if time.monotonic() + _POLL_SECONDS < deadline else 0.0)


def persist(action: Callable[[], Answer]) -> Answer:
    """Try again what a store refuses, with growing waits; raise what the last attempt met."""
    for attempt in range(_NUM_ATTEMPTS - 1):
        try:
            return action()
        except (CheckpointError, FencedError):
            raise  # what arrived is damaged, or the attempt is over: once more would bring the same
        except Exception:  # noqa: BLE001 - each store has errors of its own
            longest = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**attempt)
            time.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
    return action()
