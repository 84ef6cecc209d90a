"""Who may write to a run's directory, and when: a refused launch leaves no trace, and takes away no other's."""

import fcntl
import json
import os

import pytest
from fake_backend import FakeBackend, save

from launcher.agent_log import WorkerFailures
from launcher.console import Console
from launcher.errors import RunDirectoryError, TooFewNodesError
from launcher.execute import execute
from launcher.launch import LaunchRequest, check_launch
from llama_dist.config import ConfigError, RunDirectory

MPI = ("cluster.backend=mpi", "cluster.hosts=[node]")


class WatchedBackend(FakeBackend):
    """Notes at each call whether the run's lock is held; may refuse, or have too few nodes."""

    def __init__(self, run, *attempts, refuses="", signals=()):
        super().__init__(run, *attempts)
        self.refuses, self.signals, self.calls = refuses, list(signals), []

    def is_held(self) -> bool:
        if not self.run.lock.exists():
            return False
        with self.run.lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def check(self):
        self.calls.append(("check", self.is_held()))
        if self.refuses:
            raise ConfigError(self.refuses)

    def gather(self, set_aside):
        if not self.attempts:
            raise TooFewNodesError("nobody answers")
        return super().gather(set_aside)

    def take_signals(self):
        return [self.signals.pop(0)] if self.signals else []

    def close(self):
        self.calls.append(("close", self.is_held()))


@pytest.fixture
def run(fake_run):
    return RunDirectory(fake_run.run_directory)


@pytest.fixture
def launch(fake_run, run, monkeypatch):
    """Execute the run file on this backend."""

    def execute_on(backend, *overrides):
        request = LaunchRequest(fake_run.run_file, None, overrides)
        checked = check_launch(request, {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": ""})
        monkeypatch.setattr("launcher.execute.backend_of", lambda _launch: backend)
        return execute(checked, Console())

    return execute_on


def done(run, _number):
    save(run, 20)
    return (0,)


def killed(run, number):
    (run.attempt(number) / "logs" / "rank_00000.err").write_text("")
    return 1, WorkerFailures({0: -9}, 0)


def test_agents_that_join_are_let_in_and_let_go_by_the_holder_of_the_run_alone(launch, run):
    """The door to them is in the directory: a launch that was refused would take it from the one that runs."""
    backend = WatchedBackend(run, done)
    assert launch(backend, *MPI) == 0
    assert backend.calls[:2] == [("check", True), ("close", True)]


def test_nodes_are_let_go_before_the_run_is(launch, run):
    backend = WatchedBackend(run, done)
    assert launch(backend) == 0
    assert backend.calls[:3] == [("check", False), ("check", True), ("close", True)]


@pytest.mark.parametrize("overrides", [(), MPI])
def test_a_new_run_whose_nodes_cannot_be_used_leaves_nothing(launch, run, overrides):
    with pytest.raises(ConfigError, match="no node answers"):
        launch(WatchedBackend(run, refuses="no node answers"), *overrides)
    assert not run.path.exists()


def test_a_run_that_has_begun_keeps_its_files_when_a_launch_of_it_is_refused(launch, run):
    assert launch(WatchedBackend(run, done), *MPI) == 0
    with pytest.raises(ConfigError, match="no node answers"):
        launch(WatchedBackend(run, refuses="no node answers"), *MPI)
    assert run.config.is_file() and json.loads(run.supervisor.read_text())["state"] == "done"


@pytest.mark.parametrize("is_begun_meanwhile", [False, True])
def test_unfit_nodes_take_away_no_run_that_another_launch_has_begun_meanwhile(
    launch, run, monkeypatch, is_begun_meanwhile
):
    def refuse(_launch, _console):
        if is_begun_meanwhile:
            run.config.write_text("name: fake\n")
        raise ConfigError("rendezvous_port 7799 is in use")

    monkeypatch.setattr("launcher.execute.check_before_launch", refuse)
    with pytest.raises(ConfigError, match="7799"):
        launch(WatchedBackend(run, done))
    assert run.path.exists() == is_begun_meanwhile == run.config.exists()


def test_a_signal_to_the_nodes_ends_a_run_that_waits_for_them(launch, run):
    backend = WatchedBackend(run, signals=["SIGTERM"])
    assert launch(backend, "supervision.wait_for_nodes_minutes=0.1") == 143
    assert "asked to stop (SIGTERM) while it waited" in json.loads(run.supervisor.read_text())["reason"]


def test_a_signal_to_the_nodes_ends_a_run_that_waits_for_its_next_attempt(launch, run):
    backend = WatchedBackend(run, killed, done, signals=["SIGTERM"])
    code = launch(backend, "supervision.first_backoff_seconds=5", "supervision.max_backoff_seconds=5")
    assert (code, len(backend.specs)) == (143, 1)


def test_a_detached_launch_that_cannot_lock_its_directory_says_so(fake_run, run):
    from launcher.detach import launch_detached

    run.lock.mkdir(parents=True)
    checked = check_launch(LaunchRequest(fake_run.run_file), {"PATH": os.environ["PATH"]})
    with pytest.raises(RunDirectoryError, match=r"lock: .*run `fake` was not started"):
        launch_detached(checked, Console())
