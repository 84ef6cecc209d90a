"""`status` and `stop` of runs that wait as a Slurm job, by programs that stand for Slurm's."""

import os
import threading
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from launcher.console import Console
from launcher.launch import LaunchRequest, check_launch
from launcher.queued_job import QueueSilentError, note_job
from launcher.records import SupervisorRecord, write_supervisor
from launcher.run_lookup import find_run
from launcher.save_now import save_now
from launcher.status import read_status
from launcher.stop import stop_run
from launcher.submit import submit
from llama_dist.config import ConfigError, RunDirectory

AWAY = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


@pytest.fixture
def slurm(fake_run, monkeypatch):
    monkeypatch.setattr("launcher.queued_state._POLL_SECONDS", 0.01)
    return FakeSlurm(fake_run.path, monkeypatch)


@pytest.fixture
def run(fake_run, slurm):
    """A run that was submitted and waits."""
    request = LaunchRequest(fake_run.run_file, None, ("cluster.backend=slurm",))
    assert submit(check_launch(request, {"PATH": os.environ["PATH"]}), Console()) == 0
    slurm.queue("PENDING")
    return find_run("fake", fake_run.run_directory.parent)


def supervised(run, state):
    """Let an attempt of the run have come to this state."""
    run.attempt(1).mkdir(parents=True)
    run.attempt_config(1).write_bytes((run.path / "submission.run.yaml").read_bytes())
    write_supervisor(run.supervisor, SupervisorRecord(1, 2.0, "node7", 1, state, 143, "asked to stop", time.time()))


def test_a_run_that_waits_for_its_first_attempt_is_queued(run, slurm):
    status = read_status(run)
    assert (status.state, status.reason) == ("queued", "queued as Slurm job 17")
    slurm.queue("REQUEUE_HOLD")
    assert read_status(run).reason == "queued as Slurm job 17 (REQUEUE_HOLD)"


def test_a_run_that_is_queued_again_has_no_exit_code_and_says_how_it_came_there(run):
    supervised(run, "stopped")
    status = read_status(run)
    assert (status.state, status.exit_code, status.supervisor_pid) == ("queued", None, None)
    assert status.reason == "queued again as Slurm job 17; before that stopped: asked to stop"


def test_a_job_that_runs_or_is_over_before_the_first_attempt_is_told(run, slurm):
    slurm.queue("RUNNING")
    assert read_status(run).reason.endswith("; Slurm job 17 is RUNNING")
    slurm.queue("FAILED")
    status = read_status(run)
    assert (status.state, status.reason) == ("new", "no attempt was made yet; its Slurm job 17 is over")


def test_status_where_slurm_does_not_answer_says_so(run, slurm):
    slurm.answer("squeue", AWAY)
    status = read_status(run)
    assert status.state == "new" and "Slurm job 17 is not known: squeue: slurm_load_jobs error: Unable" in status.reason


def test_a_run_that_is_done_asks_nothing_of_slurm(run, slurm, capsys):
    supervised(run, "done")
    slurm.answer("squeue", f"touch {slurm.path}/asked")
    assert read_status(run).state == "done"
    stop_run(run, Console())
    assert "is not live (done): nothing to stop" in capsys.readouterr().out
    assert not (slurm.path / "asked").exists()


@pytest.mark.parametrize(
    ("before", "state"),
    [(None, "PENDING"), (None, "RUNNING"), ("stopped", "PENDING"), ("failed", "REQUEUED"), ("stopped", "COMPLETING")],
)
def test_stop_cancels_a_job_that_waits_or_begins(run, slurm, capsys, before, state):
    if before:
        supervised(run, before)
    slurm.queue(state)
    stop_run(run, Console())
    assert slurm.cancelled == ["17"]
    output = capsys.readouterr().out
    assert f"cancelled its Slurm job 17, which was {state}" in output and "nothing to stop" not in output


def test_stop_of_a_run_whose_job_is_over_has_nothing_to_stop(run, slurm, capsys):
    slurm.queue("CANCELLED")
    stop_run(run, Console())
    assert "is not live (new): nothing to stop" in capsys.readouterr().out and not slurm.cancelled


def test_stop_does_not_answer_nothing_to_stop_where_slurm_is_silent_or_refuses(run, slurm):
    slurm.answer("scancel", "echo 'scancel: error: Kill job error: Access denied' >&2; exit 1")
    with pytest.raises(Exception, match=r"job 17 \(PENDING\) was not cancelled: scancel: .*Access denied") as told:
        stop_run(run, Console())
    assert told.value.exit_code == 78
    slurm.answer("squeue", AWAY)
    with pytest.raises(QueueSilentError, match=r"Slurm job 17, .* not known .*Unable to contact.*`scancel 17`"):
        stop_run(run, Console())


@pytest.mark.parametrize("again", ["PENDING", "COMPLETED"])
def test_a_stop_of_a_live_run_waits_for_its_job_and_cancels_it_if_it_is_queued_again(
    run, slurm, capsys, monkeypatch, again
):
    """As where the stop comes while the job is preempted."""
    slurm.queue("RUNNING")
    monkeypatch.setattr("launcher.stop._owner_elsewhere", lambda _: "somebody")
    monkeypatch.setattr("launcher.stop._stop_elsewhere", lambda *_, **__: supervised(run, "stopped"))
    later = threading.Timer(0.2, slurm.queue, [again])
    later.start()
    stop_run(run, Console())
    later.join()
    assert slurm.cancelled == (["17"] if again == "PENDING" else [])
    assert "run `fake`: stopped: asked to stop" in capsys.readouterr().out


def test_a_job_that_does_not_end_after_a_stop_is_told(run, slurm, capsys, monkeypatch):
    monkeypatch.setattr("launcher.queued_state._JOB_ENDS_SECONDS", 0.0)
    slurm.queue("RUNNING")
    monkeypatch.setattr("launcher.stop._owner_elsewhere", lambda _: "somebody")
    monkeypatch.setattr("launcher.stop._stop_elsewhere", lambda *_, **__: supervised(run, "stopped"))
    stop_run(run, Console())
    assert "Slurm job 17 is still RUNNING: if it is queued again, `scancel 17` ends it" in capsys.readouterr().out


def test_a_queued_run_cannot_save(run):
    with pytest.raises(ConfigError, match=r"not live \(queued\)"):
        save_now(run, 1.0)


def test_a_run_that_was_only_submitted_is_among_those_that_are_known(tmp_path):
    (tmp_path / "waits").mkdir()
    note_job(RunDirectory(tmp_path / "waits"), "17")
    with pytest.raises(ConfigError, match=r"runs of .*: waits"):
        find_run("other", tmp_path)
    with pytest.raises(ConfigError):
        find_run(str(tmp_path / "none"), Path("runs"))
