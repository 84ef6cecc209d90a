"""What a node's agent does with the words of its supervisor, over a socket; the ranks are no processes."""

import contextlib
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from fake_agents import SOON, attempt_on

from cluster.facts import MachineFacts
from launcher.agent_log import WorkerFailures
from launcher.backend import NodeSpec
from launcher.local_backend import start_local_attempt
from launcher.node.agent import NodeAgent
from launcher.node.channel import Channel
from launcher.node.messages import LineBuffer, encode
from launcher.node.seat import NONCE_NAME
from llama_dist.config import RunDirectory
from llama_dist.exit_codes import ExitCode

START = {"command": ["true"], "ranks": [0], "num_nodes": 1, "num_ranks": 1, "attempt": 1}


class Supervisor:
    """The other end of an agent of `node1`."""

    def __init__(self):
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(SOON)
        self._lines, self._messages = LineBuffer(), []
        self._theirs = theirs
        self.agent = NodeAgent(Channel(theirs.fileno(), theirs.fileno()), "node1", "127.0.0.1")
        self.codes = []
        self._thread = threading.Thread(target=lambda: self.codes.append(self.agent.serve()), daemon=True)
        self._thread.start()

    def tell(self, do, **values):
        self._connection.sendall(encode({"do": do, "to": ["node1"], **values}))

    def greet(self, directory, lease_seconds=600.0):
        self.tell("hello", hosts=["node1"], lease_seconds=lease_seconds, working_directory=str(directory))

    def seat(self, path):
        """Greet, and let the agent sit down in a run directory."""
        run = RunDirectory(path / "run")
        run.nodes.mkdir(parents=True)
        (run.nodes / NONCE_NAME).write_text("n")
        self.greet(path)
        self.hear("hello")
        self.tell("sit", run_directory=str(run.path), nonce="n")
        self.hear("seated")

    def hear(self, say):
        """Return the next message that says this, past all others."""
        deadline = time.monotonic() + SOON
        while True:
            while self._messages:
                if (message := self._messages.pop(0))["say"] == say:
                    return message
            assert time.monotonic() < deadline, f"no `{say}` came"
            data = self._connection.recv(1 << 16)
            assert data, f"the agent left before it said `{say}`"
            self._messages += self._lines.take(data)

    def has_ended(self):
        """Wait for the end of the agent."""
        self._thread.join(SOON)
        assert not self._thread.is_alive()

    def leave(self):
        """Let the agent go; answers its exit code."""
        with contextlib.suppress(OSError):
            self.tell("leave")
        self._thread.join(SOON)
        self._connection.close()
        return self.codes[0] if self.codes else None


@pytest.fixture
def supervisor(monkeypatch):
    monkeypatch.setattr("launcher.node.agent.read_machine_facts", lambda _: MachineFacts("here", 2, 1 << 34, ()))
    supervisor = Supervisor()
    yield supervisor
    supervisor.leave()


class FakeRanks:
    """As much of a local attempt as an agent asks."""

    has_failed = False

    def __init__(self, node, directory):
        self.node, self.directory = node, directory
        self.is_over = threading.Event()

    def poll(self):
        return -9 if self.is_over.is_set() else None

    def failures(self):
        return WorkerFailures()

    def beats(self):
        return {}

    def kill(self):
        """They do not end at once: one finishes a disk write."""

    def end_now(self):
        """Wait for them, as long as the test does."""
        self.is_over.wait()

    def stacks(self, _seconds):
        self.is_over.wait()
        return {0: "main"}


@pytest.fixture
def started(monkeypatch):
    """The attempts that agents start."""
    attempts = []

    def start(_spec, node, directory):
        attempts.append(FakeRanks(node, directory))
        return attempts[-1]

    monkeypatch.setattr("launcher.node.agent.start_local_attempt", start)
    yield attempts
    for attempt in attempts:
        attempt.is_over.set()


def test_ranks_run_where_the_launch_was_typed(supervisor, started, tmp_path):
    supervisor.seat(tmp_path)
    supervisor.tell("start", environment={}, **START)
    supervisor.tell("port", wanted=None)
    supervisor.hear("port")
    assert [one.directory for one in started] == [str(tmp_path)]


def test_a_started_process_finds_relative_paths_in_the_directory_that_it_was_given(tmp_path):
    (tmp_path / "there").mkdir()
    spec = attempt_on(["node1"], tmp_path / "run")
    spec.log_directory.mkdir(parents=True)
    program = (sys.executable, "-c", "open('found', 'w')")
    attempt = start_local_attempt(spec, NodeSpec("node1", program, {}, [0]), str(tmp_path / "there"))
    assert attempt._agent.wait(SOON) == 0
    assert (tmp_path / "there" / "found").exists()


def test_a_node_without_the_directory_refuses_by_name(supervisor, tmp_path):
    supervisor.greet(tmp_path / "nowhere")
    reason = supervisor.hear("refused")["reason"]
    assert f"{tmp_path}/nowhere: no such directory on node1" in reason
    assert "launch where all nodes have the directory" in reason


@pytest.mark.parametrize(("own", "expected"), [("2,3", "2,3"), ("", ""), (None, "0,1")])
def test_ranks_see_the_gpus_that_their_own_node_was_given(supervisor, started, tmp_path, monkeypatch, own, expected):
    if own is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
    supervisor.seat(tmp_path)
    supervisor.tell("start", environment={"CUDA_VISIBLE_DEVICES": "0,1", "A": "b"}, **START)
    supervisor.tell("port", wanted=None)
    supervisor.hear("port")
    assert started[0].node.environment == {"CUDA_VISIBLE_DEVICES": expected, "A": "b"}


def test_a_node_that_greets_for_long_is_there_meanwhile(supervisor, tmp_path, monkeypatch):
    """A driver, or the program's sources on a cold disk, may take longer than a lease."""
    may_go_on = threading.Event()

    def read_slowly(_environment):
        may_go_on.wait(SOON)
        return MachineFacts("here", 2, 1 << 34, ())

    monkeypatch.setattr("launcher.node.agent.read_machine_facts", read_slowly)
    supervisor.greet(tmp_path)
    try:
        for _ in range(2):
            assert supervisor.hear("alive")["host"] == "node1"
    finally:
        may_go_on.set()
    assert supervisor.hear("hello")["facts"]["num_cores"] == 2


def test_a_fault_beside_the_loop_ends_the_agent(supervisor, tmp_path, monkeypatch):
    def fail(_environment):
        raise ValueError("a bug")

    monkeypatch.setattr("launcher.node.agent.read_machine_facts", fail)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    supervisor.greet(tmp_path)
    supervisor.has_ended()
    assert supervisor.codes == [], "it ended by an exception"


@pytest.mark.parametrize(("ask", "answer"), [("end", "ended"), ("stacks", "stacks")])
def test_an_agent_is_heard_while_its_ranks_keep_it_waiting(supervisor, started, tmp_path, ask, answer):
    supervisor.seat(tmp_path)
    supervisor.tell("start", environment={}, **START)
    supervisor.tell(ask, seconds=1.0)
    supervisor.tell("port", wanted=None)
    supervisor.hear("port")
    supervisor.hear("alive")
    started[0].is_over.set()
    assert supervisor.hear(answer)["attempt"] == 1


def test_ticks_that_came_while_a_message_was_obeyed_keep_the_lease(supervisor, started, tmp_path, monkeypatch):
    """Over a socket a message is read alone, and those that come meanwhile wait."""

    def start_slowly(_spec, node, directory):
        supervisor.tell("tick")
        supervisor.agent._heard_at -= 1000.0
        started.append(FakeRanks(node, directory))
        return started[0]

    supervisor.seat(tmp_path)
    monkeypatch.setattr("launcher.node.agent.start_local_attempt", start_slowly)
    supervisor.tell("start", environment={}, **START)
    supervisor.hear("alive")
    started[0].is_over.set()
    assert supervisor.leave() == ExitCode.DONE


def test_an_agent_whose_supervisor_is_silent_ends_with_its_lease(supervisor, tmp_path):
    supervisor.greet(tmp_path, lease_seconds=0.01)
    supervisor.has_ended()
    assert supervisor.codes == [ExitCode.RETRY]


def test_killed_ranks_have_ended_when_they_are_gone(tmp_path, monkeypatch):
    """One that the kernel holds for a disk write outlives the torchrun agent."""
    spec = attempt_on(["node1"], tmp_path)
    spec.log_directory.mkdir(parents=True)
    attempt = start_local_attempt(spec, NodeSpec("node1", ("/bin/sleep", "600"), {}, [0]))
    rank = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(attempt, "_end_ranks", lambda: [psutil.Process(rank.pid)])
    attempt.kill()
    attempt._agent.wait(SOON)
    assert attempt.poll() is None
    rank.kill()
    psutil.Process(rank.pid).wait(SOON)
    assert attempt.poll() == -9
