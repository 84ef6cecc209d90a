"""The spool loses nothing that the disk took, and never disturbs the training."""

import errno
import json
import math
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_dist.metrics import Spool, SpoolReader, SpoolRecord, StepMetrics, effective_steps, read_spool, spool_path


def write_steps(directory: Path, attempt: int, steps: list[StepMetrics]) -> Spool:
    spool = Spool(directory, attempt)
    for step in steps:
        spool.append(step)
    spool.close()
    return spool


def test_steps_read_back_as_they_were_written(tmp_path, make_step):
    steps = [make_step(step) for step in range(1, 12)]
    spool = write_steps(tmp_path, 1, steps)
    records = read_spool(spool.path)
    assert [record.metrics for record in records] == steps
    assert {record.attempt for record in records} == {1}
    assert spool.complaint() is None


def test_a_loss_that_is_not_a_number_is_kept(tmp_path, make_step):
    spool = write_steps(tmp_path, 1, [make_step(1, loss=math.nan, gradient_norm=math.inf, skipped=True)])
    (record,) = read_spool(spool.path)
    assert math.isnan(record.metrics.loss) and record.metrics.gradient_norm == math.inf and record.metrics.skipped


def test_the_spool_is_readable_by_its_owner_alone(tmp_path, make_step):
    spool = write_steps(tmp_path / "metrics", 1, [make_step(1)])
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.path.parent.stat().st_mode) == 0o700


def test_every_cut_of_the_file_heals_without_gluing_records(tmp_path, make_step):
    whole = write_steps(tmp_path / "whole", 1, [make_step(1), make_step(2)]).path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in range(first_line + 1, len(whole), 7):
        directory = tmp_path / f"cut{cut}"
        directory.mkdir()
        spool_path(directory).write_bytes(whole[:cut])
        assert [record.metrics.step for record in read_spool(spool_path(directory))] == [1]
        write_steps(directory, 2, [make_step(2), make_step(3)])
        records = read_spool(spool_path(directory))
        assert [(record.attempt, record.metrics.step) for record in records] == [(1, 1), (2, 2), (2, 3)]


def test_a_record_that_lacks_only_its_newline_counts(tmp_path, make_step):
    path = write_steps(tmp_path, 1, [make_step(1), make_step(2)]).path
    path.write_bytes(path.read_bytes()[:-1])
    assert [record.metrics.step for record in read_spool(path)] == [1, 2]
    write_steps(tmp_path, 2, [make_step(3)])
    assert [record.metrics.step for record in read_spool(path)] == [1, 2, 3]


def test_a_tail_reader_sees_each_record_once_and_waits_for_whole_lines(tmp_path, make_step):
    source = write_steps(tmp_path / "source", 1, [make_step(step) for step in range(1, 4)]).path.read_bytes()
    path = tmp_path / "grows.jsonl"
    reader, seen = SpoolReader(path), []
    assert reader.read_new() == []
    for end in range(0, len(source) + 1, 11):
        path.write_bytes(source[:end])
        seen += [record.metrics.step for record in reader.read_new()]
    path.write_bytes(source)
    seen += [record.metrics.step for record in reader.read_new()]
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("line", ["[]", "3", '{"attempt": 1}', '{"step": "x"}', "\x00\x00", '{"attempt": 1, "st'])
def test_a_line_that_is_no_record_is_counted_and_passed_over(tmp_path, make_step, line):
    path = write_steps(tmp_path, 1, [make_step(1)]).path
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    write_steps(tmp_path, 1, [make_step(2)])
    reader = SpoolReader(path)
    assert [record.metrics.step for record in reader.read_new()] == [1, 2]
    assert reader.num_unreadable_lines == 1


def test_a_field_of_a_newer_version_is_passed_over(tmp_path, make_step):
    path = write_steps(tmp_path, 1, [make_step(1)]).path
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"colour": "blue"}) + "\n")
    assert [record.metrics for record in read_spool(path)] == [make_step(1)]


def test_a_file_in_place_of_the_directory_does_not_raise_and_is_told(tmp_path, make_step):
    (tmp_path / "metrics").write_text("in the way")
    spool = write_steps(tmp_path / "metrics", 1, [make_step(1), make_step(2)])
    complaint = spool.complaint()
    assert spool.num_lost_records == 2
    assert (
        complaint is not None and "2 step(s) are missing" in complaint and "the training was not affected" in complaint
    )


def test_steps_that_a_full_disk_refused_are_written_when_it_has_room_again(tmp_path, make_step):
    directory = tmp_path / "metrics"
    directory.symlink_to(tmp_path / "not-there-yet")
    spool = Spool(directory, 1)
    spool.append(make_step(1))
    spool.append(make_step(2))
    assert spool.num_errors == 2 and spool.num_lost_records == 0
    (tmp_path / "not-there-yet").mkdir()
    spool.append(make_step(3))
    spool.close()
    assert [record.metrics.step for record in read_spool(spool.path)] == [1, 2, 3]


def test_a_write_cut_short_by_a_full_disk_neither_glues_nor_loses(tmp_path, make_step, monkeypatch):
    """os.write takes part of the bytes, then none, then all: as ext4 does around the last block."""
    room = [100, 0, 10**9]
    real_write = os.write

    def short_write(descriptor: int, content: bytes) -> int:
        allowed = room.pop(0) if len(room) > 1 else room[0]
        if not allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, content[:allowed])

    monkeypatch.setattr("llama_dist.metrics.spool.os.write", short_write)
    spool = write_steps(tmp_path, 1, [make_step(step) for step in (1, 2, 3)])
    monkeypatch.undo()
    assert [record.metrics.step for record in read_spool(spool.path)] == [1, 2, 3]
    assert spool.num_errors == 2 and spool.num_lost_records == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs, which needs root")
def test_a_really_full_disk_costs_no_step_once_it_has_room(tmp_path, make_step):
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        ballast = directory / "ballast"
        ballast.write_bytes(b"x" * 60 * 1024)
        spool = Spool(directory, 1)
        for step in range(1, 41):
            spool.append(make_step(step))
        assert spool.num_errors > 0
        ballast.unlink()
        spool.append(make_step(41))
        spool.close()
        assert [record.metrics.step for record in read_spool(spool.path)] == list(range(1, 42))
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_the_backlog_in_memory_is_bounded_and_what_falls_out_is_counted(tmp_path, make_step, monkeypatch):
    monkeypatch.setattr("llama_dist.metrics.spool.MAX_WAITING_LINES", 3)
    (tmp_path / "metrics").write_text("in the way")
    spool = Spool(tmp_path / "metrics", 1)
    for step in range(1, 6):
        spool.append(make_step(step))
    assert spool.num_lost_records == 2


def test_a_redone_step_supersedes_and_none_is_missing_or_doubled(make_step):
    records = [SpoolRecord(1, float(step), make_step(step)) for step in range(1, 8)]
    records += [SpoolRecord(2, 100.0 + step, make_step(step)) for step in range(5, 11)]
    effective = effective_steps(records)
    assert [record.metrics.step for record in effective] == list(range(1, 11))
    assert [record.attempt for record in effective] == [1] * 4 + [2] * 6


def test_steps_beyond_the_newest_rewind_do_not_count_until_done_again(make_step):
    records = [SpoolRecord(1, float(step), make_step(step)) for step in range(1, 8)]
    records += [SpoolRecord(2, 100.0, make_step(5))]
    assert [record.metrics.step for record in effective_steps(records)] == [1, 2, 3, 4, 5]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=6))
def test_any_history_of_rewinds_gives_each_step_once(history):
    """Each attempt resumes at or before the furthest step so far and does some steps."""
    records, furthest = [], 0
    for attempt, (resumed_at, num_steps) in enumerate(history, start=1):
        first = min(resumed_at, furthest) + 1
        for step in range(first, first + num_steps):
            metrics = StepMetrics(step, step, float(attempt), 0.0, 0.0, 0.0, 0.0, 0.0)
            records.append(SpoolRecord(attempt, float(len(records)), metrics))
        furthest = first + num_steps - 1
    assert [record.metrics.step for record in effective_steps(records)] == list(range(1, furthest + 1))
