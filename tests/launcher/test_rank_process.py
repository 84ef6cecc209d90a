"""What a process that torchrun has started does before it becomes a rank: what any launch does before an attempt."""

import fcntl
import os
import threading
import time
from dataclasses import replace

import pytest
from fake_backend import save

from launcher.console import Console
from launcher.doctor.result import DoctorReport
from launcher.errors import LiveRunError, RunDirectoryError
from launcher.launch import LaunchRequest, check_launch
from launcher.lease_record import create_lease, new_record, rewrite_lease
from launcher.rank_process import become_rank
from llama_dist.config import ConfigError
from llama_dist.config.run_life import note_saved, read_life

TORCHRUN = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}


class BecameRankError(Exception):
    """The trainer would be here now."""


@pytest.fixture
def looked_at(monkeypatch):
    """The subjects of the quick checks, which find nothing."""
    subjects = []

    def look(subject):
        subjects.append(subject)
        return DoctorReport(subject.hosts, (), 0.0)

    monkeypatch.setattr("launcher.preflight.quick_checks", look)
    return subjects


@pytest.fixture
def checked(fake_run):
    def check(*overrides, **variables):
        environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": ""} | TORCHRUN | variables
        fresh = "fresh" in overrides
        settings = ("cluster.backend=started", *(one for one in overrides if one != "fresh"))
        return check_launch(LaunchRequest(fake_run.run_file, None, settings, fresh=fresh), environment)

    return check


@pytest.fixture
def start(checked, looked_at, monkeypatch):
    """Let rank 0 of one start by torchrun come as far as the trainer, and end; answers the run's directory."""
    locks = []

    def become_trainer(*_):
        raise BecameRankError

    monkeypatch.setattr("launcher.rank_process.os.execve", become_trainer)
    monkeypatch.setattr("launcher.run_lock.os.set_inheritable", lambda descriptor, _: locks.append(descriptor))

    def run(*overrides, **variables):
        launch = checked(*overrides, **variables)
        try:
            with pytest.raises(BecameRankError):
                become_rank(launch, Console(), launch.caller_environment)
        finally:
            while locks:  # as the end of the process does
                os.close(locks.pop())
        return launch.run

    return run


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_fresh_start_is_refused_since_each_restart_would_be_one(checked, rank):
    launch = checked("fresh", RANK=rank, LOCAL_RANK=rank)
    with pytest.raises(ConfigError, match="--fresh: torchrun starts this again at each restart"):
        become_rank(launch, Console(), launch.caller_environment)
    assert not launch.run.path.exists()


def test_the_run_is_opened_as_by_any_launch(start, tmp_path, capsys):
    disk = tmp_path / "fast"
    run = start(f"checkpoint.directory={disk}")
    assert run.checkpoints.readlink().parent == disk
    assert read_life(run)
    save(run, 20)
    start(f"checkpoint.directory={disk}")
    assert "continues; newest checkpoint: step 20" in capsys.readouterr().out
    assert run.attempt(2).is_dir()


def test_a_run_that_has_lost_its_checkpoints_does_not_start_from_zero(start, checked):
    run = start()
    note_saved(run, 20)
    launch = checked()
    with pytest.raises(RunDirectoryError, match=r"holds no checkpoint, but run `fake` has saved one up to step 20"):
        start()
    assert launch.run.attempt(1).is_dir() and not launch.run.attempt(2).exists()


def test_another_config_without_a_checkpoint_begins_the_run_anew(start, capsys):
    start()
    run = start("train.seed=7")
    assert "starts again at step 0" in capsys.readouterr().out
    assert "seed: 7" in run.config.read_text()


def test_all_nodes_that_torchrun_started_are_reckoned_with_but_its_port_is_its_own(start, looked_at):
    start("cluster.rendezvous_port=29500", WORLD_SIZE="4")
    (subject,) = looked_at
    assert (len(subject.hosts), subject.num_nodes, subject.cluster.rendezvous_port) == (1, 2, None)


def test_what_the_quick_checks_refuse_is_not_begun(checked, monkeypatch):
    def refuse(_launch, _console):
        raise ConfigError("no room on the disk")

    monkeypatch.setattr("launcher.rank_process.check_before_launch", refuse)
    launch = checked()
    with pytest.raises(ConfigError, match="no room"):
        become_rank(launch, Console(), launch.caller_environment)
    assert not launch.run.path.exists()


def test_a_run_that_lives_on_another_host_is_refused(start, checked):
    run = checked().run
    run.path.mkdir(parents=True)
    record = replace(new_record(60), host="node7", place="another kernel")
    create_lease(run, 1, record)
    renewing = threading.Timer(0.5, rewrite_lease, (run, 1, record.renewed_now(attempt=3)))
    renewing.start()
    with pytest.raises(LiveRunError, match="on node7, attempt 3"):
        start()
    renewing.join()
    assert not run.attempts.exists()


def test_a_lease_whose_owner_is_silent_is_waited_out(start, checked, capsys):
    run = checked().run
    run.path.mkdir(parents=True)
    create_lease(run, 1, replace(new_record(0.5), host="node7", place="another kernel"))
    began = time.monotonic()
    start()
    assert time.monotonic() - began >= 0.5
    assert "gave no sign of life" in capsys.readouterr().out
    assert run.attempt(1).is_dir()


def test_a_lock_that_another_start_holds_is_refused_although_the_newest_lease_is_dead(start, checked):
    """Where the file server shares locks, the other start by torchrun may be on another host: it has no lease."""
    run = checked().run
    run.path.mkdir(parents=True)
    create_lease(run, 1, replace(new_record(0.2), host="node7", place="another kernel"))
    with run.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LiveRunError, match="is being launched by another process"):
            start()
    assert not run.attempts.exists()
