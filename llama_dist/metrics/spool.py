"""The record of a run on disk: one JSON line per step, appended, never rewritten.

Nothing here may disturb the training: a full disk or a lost directory is counted and told at the end, never raised.
Does not ship anything: `ship.py` does, from another process.
"""

import json
import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from llama_dist.config.run_directory import SPOOL_NAME
from llama_dist.metrics.record import SpoolRecord, StepMetrics, from_values, to_values

# Lines kept in memory while the disk refuses them; about 4 MB at most, and hours of steps of a large run.
MAX_WAITING_LINES = 10_000

# Read at a time, so that catching up with weeks of steps takes little memory.
READ_BYTES = 16 * 1024**2


def spool_path(metrics_directory: Path) -> Path:
    """Return the file that `Spool` appends to."""
    return metrics_directory / SPOOL_NAME


class Spool:
    """Appends the steps of one attempt. Rank 0 only; no method raises for a fault of the disk."""

    def __init__(self, metrics_directory: Path, attempt: int) -> None:
        self.path = spool_path(metrics_directory)
        self.attempt = attempt
        self.num_errors = 0
        self.num_lost_records = 0
        self.last_error = ""
        self._file: int | None = None
        self._ends_inside_line = False
        self._waiting: deque[bytes] = deque()

    def append(self, metrics: StepMetrics) -> None:
        """Write one step; where the disk refuses, keep it in memory and write it with a later one."""
        record = SpoolRecord(attempt=self.attempt, time=time.time(), metrics=metrics)
        if len(self._waiting) == MAX_WAITING_LINES:
            self._waiting.popleft()
            self.num_lost_records += 1
        self._waiting.append(json.dumps(to_values(record)).encode() + b"\n")
        try:
            self._write_waiting()
        except OSError as error:
            self._count(error)

    def sync(self) -> None:
        """Bring the lines to the disk itself: called with a checkpoint, so that both survive a power cut."""
        if self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as error:
                self._count(error)

    def close(self) -> None:
        """Write what waits, and count as lost what still cannot be written."""
        try:
            self._write_waiting()
        except OSError as error:
            self._count(error)
        self.num_lost_records += len(self._waiting)
        self._waiting.clear()
        self._close_file()

    def complaint(self) -> str | None:
        """What to tell the user at the end, or None where every step was written."""
        if not self.num_errors:
            return None
        return (
            f"{self.path}: {self.num_errors} write(s) failed (last: {self.last_error}), "
            f"{self.num_lost_records} step(s) are missing in it; the training was not affected. Free the disk."
        )

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        if self._file is None:
            self._open()
        assert self._file is not None
        heal = b"\n" if self._ends_inside_line else b""
        num_written = os.write(self._file, heal + b"".join(self._waiting))
        if num_written and heal:
            self._ends_inside_line = False
            num_written -= 1
        while self._waiting and num_written >= len(self._waiting[0]):
            num_written -= len(self._waiting.popleft())
        self._ends_inside_line = self._ends_inside_line or num_written > 0
        if self._waiting:
            raise OSError(f"short write, {len(self._waiting)} line(s) wait")

    def _open(self) -> None:
        """Open for appending, for the owner alone, and see whether a crash left half a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._file).st_size
        self._ends_inside_line = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def _count(self, error: OSError) -> None:
        self.num_errors += 1
        self.last_error = error.strerror or str(error)
        self._close_file()

    def _close_file(self) -> None:
        """Forget the descriptor: the next write opens anew, since the directory may have been replaced."""
        if self._file is None:
            return
        descriptor, self._file = self._file, None
        try:
            os.close(descriptor)
        except OSError as error:  # a network file system reports late write errors here
            self.num_errors += 1
            self.last_error = error.strerror or str(error)


class SpoolReader:
    """Reads a spool while it grows: each call answers the records that are new since the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_unreadable_lines = 0
        self.offset = 0
        self._newest_attempt = 0

    def read_new(self, *, with_unfinished_line: bool = False) -> list[SpoolRecord]:
        """Return new records, the first few MiB of them; nothing new gives an empty list.

        The half line at the end is left for later, or tried where nobody writes any more.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(READ_BYTES)
        except FileNotFoundError:
            return []
        end = content.rfind(b"\n") + 1
        if not end and (with_unfinished_line or len(content) == READ_BYTES):
            end = len(content)
        self.offset += end
        return self._parse(content[:end])

    def _parse(self, content: bytes) -> list[SpoolRecord]:
        records = []
        for line in content.split(b"\n"):
            if line.strip():
                record = _parse_line(line)
                if record is None:
                    self.num_unreadable_lines += 1
                elif record.attempt >= self._newest_attempt:
                    self._newest_attempt = record.attempt
                    records.append(record)
                # Else of a process that was frozen between its look at the fence and its write: the step is redone.
        return records


def read_spool(path: Path) -> list[SpoolRecord]:
    """Return all records in the order they were written; a line torn by a crash is left out."""
    reader, records = SpoolReader(path), list[SpoolRecord]()
    offset = -1
    while reader.offset != offset:
        offset = reader.offset
        records += reader.read_new(with_unfinished_line=True)
    return records


def effective_steps(records: Iterable[SpoolRecord]) -> list[SpoolRecord]:
    """Return each step once, in order of steps.

    After a rewind to a checkpoint the redone step supersedes the older one, and steps past the newest rewind that no
    later attempt has reached again do not count: the weights they led to are gone.
    """
    effective: dict[int, SpoolRecord] = {}
    attempt = 0
    for record in records:
        if record.attempt != attempt:
            attempt = record.attempt
            for step in [step for step in effective if step >= record.metrics.step]:
                del effective[step]
        effective[record.metrics.step] = record
    return [effective[step] for step in sorted(effective)]


def _parse_line(line: bytes) -> SpoolRecord | None:
    try:
        return from_values(json.loads(line))
    except ValueError:
        return None
