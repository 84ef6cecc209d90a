"""The parts of a drill that touch the machine: a disk that is full, leftovers, signals, a launch that ends."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_in_a_box import skip_unless_possible

from launcher.lab.layout import lab_directory
from launcher.lab.up import up
from launcher.records import write_json
from launcher.rehearsal.interruption import interruptible
from launcher.rehearsal.leftovers import recorded_lab, remove_leftovers
from launcher.rehearsal.progress import Progress, StuckError
from launcher.rehearsal.small_disk import small_disk
from llama_dist.config import RunDirectory


def mounted_below(directory):
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {directory}/" in line]


def ended_process():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process


def test_a_full_disk_takes_nothing_until_it_is_freed_and_is_gone_in_the_end(tmp_path):
    skip_unless_possible()
    with small_disk(tmp_path, 1 << 20) as disk:
        (disk.path / "kept").write_bytes(b"x" * 5000)
        disk.fill()
        with pytest.raises(OSError) as caught:
            (disk.path / "more").write_bytes(b"x" * 5000)
        assert caught.value.errno == errno.ENOSPC
        disk.free()
        (disk.path / "more").write_bytes(b"x" * 500_000)
        still_open = (disk.path / "more").open("rb")
    with still_open:
        assert not mounted_below(tmp_path) and not disk.path.exists()


def test_the_disk_of_a_drill_that_fails_is_unmounted_too(tmp_path):
    skip_unless_possible()
    with pytest.raises(RuntimeError), small_disk(tmp_path, 1 << 20):
        raise RuntimeError
    assert not mounted_below(tmp_path)


def test_what_a_killed_rehearsal_left_is_taken_down_by_the_next(tmp_path):
    skip_unless_possible()
    killed = ended_process()
    directory = tmp_path / "20250101T000000Z"
    directory.mkdir()
    write_json(directory / "lab.json", {"pid": killed.pid, "create_time": 1.0})
    lab = up(f"r{killed.pid}", num_nodes=1)
    assert remove_leftovers(tmp_path) == [lab.name]
    assert not lab.directory.exists() and not (directory / "lab.json").exists()
    assert remove_leftovers(tmp_path) == []


def test_the_lab_of_a_rehearsal_that_lives_is_left_alone(tmp_path):
    directory = tmp_path / "20250101T000000Z"
    directory.mkdir()
    with recorded_lab(directory) as name:
        assert name == f"r{os.getpid()}" and not lab_directory(name).exists()
        assert remove_leftovers(tmp_path) == []
        assert (directory / "lab.json").exists()
    assert not (directory / "lab.json").exists()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_first_signal_ends_the_block_and_the_next_does_not_disturb_its_end(number, raised):
    former = signal.getsignal(number)
    was_taken_down = False
    with pytest.raises(raised), interruptible():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            was_taken_down = True
    assert was_taken_down and signal.getsignal(number) == former


def test_waiting_for_a_launch_that_has_ended_says_so_at_once(tmp_path):
    progress = Progress(RunDirectory(tmp_path), ended_process())
    assert (progress.position, progress.attempt, progress.newest_checkpoint) == ((0, 0), 0, 0)
    progress.wait(lambda: True, 1.0, "nothing")
    with pytest.raises(StuckError, match="the run ended before a step: exit code 0"):
        progress.wait(lambda: False, 60.0, "a step")


def test_waiting_too_long_says_for_what(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(StuckError, match="no step after step 7 within 0 s"):
            Progress(RunDirectory(tmp_path), process).wait(lambda: False, 0.1, "step after step 7")
    finally:
        process.kill()
        process.wait()
