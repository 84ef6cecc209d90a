"""Brings the spool of one run to a tracker, each step exactly once. Knows no MLflow, no process, no retry.

There is no file with the shipping position: a crash between a send and such a note would double or lose steps. The
tracker's own history says what it has; a new Shipment reads it, and sends what is missing.
"""

import dataclasses
from itertools import islice

from llama_dist.config import RunDirectory, load_run_config
from llama_dist.metrics.record import SpoolRecord
from llama_dist.metrics.run_facts import RewindLog, attempt_tags, attempts_seen, params_of
from llama_dist.metrics.run_identity import load_identity, save_identity
from llama_dist.metrics.spool import SpoolReader, effective_steps, read_spool, spool_path
from llama_dist.metrics.tracker import MetricPoint, StepSet, Tracker, points_of, timestamp_ms

# Of one send: under MLflow's 1000 metrics a batch, so that a step is never cut in two.
_STEPS_PER_SEND = 100

# Enough of the spool to recognise a run by.
_NUM_KNOWN_STEPS = 1000


class Shipment:
    """One connection's work. After any exception of a method make a new one: what was sent is then unknown."""

    def __init__(self, directory: RunDirectory, tracker: Tracker) -> None:
        self._directory = directory
        self._tracker = tracker
        self._reader = SpoolReader(spool_path(directory.metrics))
        self._rewinds = RewindLog()
        self._tagged_attempts: list[tuple[int, bool]] = []
        self._open_run()
        self._shipped = tracker.shipped_steps()

    def send_new(self, *, writer_is_gone: bool = False) -> int:
        """Send what the spool has and the tracker has not; return the number of steps sent."""
        self._tag_attempts()
        num_sent = 0
        offset = -1
        while self._reader.offset != offset:
            offset = self._reader.offset
            num_sent += self._send(self._reader.read_new(with_unfinished_line=writer_is_gone))
        return num_sent

    def _send(self, records: list[SpoolRecord]) -> int:
        known = dict(self._rewinds.tags)
        self._rewinds.add(records)
        if self._rewinds.tags != known:
            self._tracker.set_tags(self._rewinds.tags)
        unsent = iter([points for record in effective_steps(records) if (points := self._take_unsent(record))])
        num_sent = 0
        while batch := list(islice(unsent, _STEPS_PER_SEND)):
            self._tracker.log([point for points in batch for point in points])
            num_sent += len(batch)
        return num_sent

    def _take_unsent(self, record: SpoolRecord) -> list[MetricPoint]:
        """Return the points that the tracker lacks; a step done again after a rewind is there already."""
        points = [point for point in points_of(record) if point.step not in self._shipped.get(point.key, ())]
        for point in points:
            self._shipped.setdefault(point.key, StepSet()).add(point.step)
        return points

    def _open_run(self) -> None:
        identity = load_identity(self._directory)
        known_times: set[tuple[int, int]] = set()
        if identity.run_id is None:
            records = islice(read_spool(spool_path(self._directory.metrics)), _NUM_KNOWN_STEPS)
            known_times = {(record.metrics.step, timestamp_ms(record)) for record in records}
        run_id = self._tracker.open_run(identity, known_times)
        if run_id != identity.run_id:
            save_identity(self._directory, dataclasses.replace(identity, run_id=run_id))
        self._tracker.set_params(params_of(load_run_config(self._directory.config)))

    def _tag_attempts(self) -> None:
        attempts = attempts_seen(self._directory)
        if attempts != self._tagged_attempts:
            self._tracker.set_tags(attempt_tags(self._directory))
            self._tagged_attempts = attempts
