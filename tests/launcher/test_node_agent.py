"""What a node's agent does with the words of its supervisor, over a socket; the ranks are no processes."""

import contextlib
import socket
import sys
import threading

import pytest
from fake_fleet import SOON, attempt_on

from cluster.facts import MachineFacts
from launcher.local_backend import start_local_attempt
from launcher.node.agent import NodeAgent
from launcher.node.channel import Channel
from launcher.node.messages import LineBuffer, encode
from launcher.node.seat import NONCE_NAME
from llama_dist.config import RunDirectory

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
        while True:
            while self._messages:
                if (message := self._messages.pop(0))["say"] == say:
                    return message
            data = self._connection.recv(1 << 16)
            assert data, f"the agent left before it said `{say}`"
            self._messages += self._lines.take(data)

    def leave(self):
        """Let the agent go; answers its exit code."""
        with contextlib.suppress(OSError):
            self.tell("leave")
        self._thread.join(SOON)
        self._connection.close()
        return self.codes[0]


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

    def poll(self):
        return None

    def beats(self):
        return {}

    def end_now(self):
        pass


@pytest.fixture
def started(monkeypatch):
    """The attempts that agents start."""
    attempts = []

    def start(_spec, node, directory):
        attempts.append(FakeRanks(node, directory))
        return attempts[-1]

    monkeypatch.setattr("launcher.node.agent.start_local_attempt", start)
    return attempts


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
    node = type(spec.nodes[0])("node1", program, {}, [0])
    attempt = start_local_attempt(spec, node, str(tmp_path / "there"))
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
