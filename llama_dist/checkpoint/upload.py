"""Copies checkpoints to a store behind any fsspec URL, in a thread of each rank's own. Removes nothing, local or there.

Each rank copies its share of the files; once all have their size in the store, the manifest follows, and last comes a
note on the local disk. No rank asks another: what they must know of each other is in the store.
"""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from llama_dist.checkpoint.disk import write_synced
from llama_dist.checkpoint.manifest import MANIFEST_NAME, CheckpointError, Manifest, read_manifest
from llama_dist.checkpoint.store import CheckpointStore

Answer = TypeVar("Answer")

UPLOADED_NAME = "uploaded.json"
"""The local note beside the manifest: where the checkpoint was copied to."""

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


def is_uploaded(directory: Path) -> bool:
    """Whether the whole checkpoint was copied to a store."""
    return (directory / UPLOADED_NAME).is_file()


class Uploader:
    """Copies one checkpoint after the other. A store that fails is told, and tried again with the next checkpoint."""

    def __init__(self, store: CheckpointStore, share: Share) -> None:
        self._store, self._share = store, share
        self._waiting: dict[str, Path] = {}
        self._alerts: list[str] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    def submit(self, directories: list[Path]) -> None:
        """Copy these as well, oldest first, where that is not done; returns at once."""
        with self._changed:
            self._waiting |= {directory.name: directory for directory in directories if not is_uploaded(directory)}
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
                directory = self._waiting.pop(min(self._waiting))
            try:
                self._copy(directory)
            except (CheckpointError, OSError, TimeoutError) as error:
                self._tell(f"{directory.name} was not copied to {self._store.url}: {error}. It stays on the local disk")
            except Exception as error:  # noqa: BLE001 - each store has errors of its own; none may end the training
                self._tell(f"{directory.name} was not copied to {self._store.url}: {type(error).__name__}: {error}")

    def _tell(self, alert: str) -> None:
        with self._changed:
            self._alerts.append(alert)

    def _copy(self, directory: Path) -> None:
        manifest = read_manifest(directory)
        here = [record for record in manifest.files if (directory / record.name).is_file()]
        for record in here[self._share.index :: self._share.count]:
            if self._store.size(directory.name, record.name) != record.num_bytes:
                persist(partial(self._store.put, directory / record.name, directory.name))
        if self._share.is_first:
            self._wait(lambda: self._all_there(directory.name, manifest), f"all files of {directory.name}")
            persist(lambda: self._store.put(directory / MANIFEST_NAME, directory.name))
        if self._share.is_disk_leader:
            num_bytes = (directory / MANIFEST_NAME).stat().st_size
            self._wait(
                lambda: self._store.size(directory.name, MANIFEST_NAME) == num_bytes,
                f"the manifest of {directory.name}",
            )
            note = json.dumps({"url": self._store.url, "time": time.time()}).encode()
            beside = directory / f".{UPLOADED_NAME}.new"
            write_synced(beside, [note])
            beside.rename(directory / UPLOADED_NAME)

    def _all_there(self, step: str, manifest: Manifest) -> bool:
        return all(self._store.size(step, record.name) == record.num_bytes for record in manifest.files)

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PEERS_SECONDS
        while not persist(is_so):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the other ranks did not copy {what} within {_PEERS_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS if time.monotonic() + _POLL_SECONDS < deadline else 0.0)


def persist(action: Callable[[], Answer]) -> Answer:
    """Try again what a store refuses, with growing waits; raise what the last attempt met."""
    for attempt in range(_NUM_ATTEMPTS - 1):
        try:
            return action()
        except CheckpointError:
            raise  # what arrived is damaged: once more would bring the same
        except Exception:  # noqa: BLE001 - each store has errors of its own
            longest = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**attempt)
            time.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
    return action()
