"""The door for agents, met by strangers: none comes in, nothing is executed, and nobody is held up."""

import contextlib
import os
import pickle
import queue
import random
import socket
import stat
import struct
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge
from pathlib import Path

import pytest

from launcher.errors import NoSupervisorError
from launcher.fleet.listener import ADDRESS_NAME, KEY_NAME, KEY_VARIABLE, Listener, address_facing
from launcher.node.joining import join
from launcher.records import read_json, write_json
from llama_dist.config import ConfigError, RunDirectory

GARBAGE = random.Random(5).randbytes(5000)
SOON = 30.0  # on a busy machine; an idle one takes milliseconds


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def framed(payload: bytes) -> bytes:
    """As multiprocessing sends a message."""
    return struct.pack("!i", len(payload)) + payload


def said_by_strangers(canary: Path) -> dict[str, bytes]:
    bomb = pickle.dumps(Bomb(canary))
    here = b'{"say":"here","host":"node1"}\n'
    return {
        "garbage": GARBAGE,
        "a web browser": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "no proof": here,
        "no proof, framed": framed(here),
        "a pickle": bomb,
        "a pickle in a message": framed(bomb),
        "a pickle as a challenge": framed(b"#CHALLENGE#" + bomb),
        "its own welcome": framed(b"#WELCOME#") + here,
        "an endless message": struct.pack("!i", 2**31 - 1) + GARBAGE,
        "a message of negative length": struct.pack("!i", -5) + here,
        "a message longer than memory": struct.pack("!iQ", -1, 2**60) + here,
        "nothing, and the end": b"",
    }


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def came(run, monkeypatch):
    """What the listener took in."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    links: queue.Queue = queue.Queue()
    listener = Listener(run, ["127.0.0.1"], links.put)
    yield links
    listener.close()


def knock(run) -> socket.socket:
    place = read_json(run.nodes / ADDRESS_NAME)
    return socket.create_connection((place["address"], place["port"]), SOON)


def say(connection, said: bytes) -> None:
    with contextlib.suppress(OSError):  # it may be shut already
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)


def is_shut(connection) -> bool:
    """Whether the other side ends the connection."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass
    return True


def test_strangers_are_shut_out_unheard_and_an_agent_comes_in_meanwhile(run, came, tmp_path):
    canary = tmp_path / "canary"
    silent = [knock(run) for _ in range(20)]
    for said in said_by_strangers(canary).values():
        with knock(run) as stranger:
            say(stranger, said)
            assert is_shut(stranger)
    with join(run, "node1", SOON):
        assert came.get(timeout=SOON).hosts == ("node1",)
    assert came.empty() and not canary.exists()
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("key", [b"", b"x" * 32])
def test_a_wrong_key_is_no_key(run, came, key):
    with knock(run) as stranger:
        stranger.settimeout(None)
        messages = Connection(os.dup(stranger.fileno()))
        with pytest.raises(AuthenticationError, match="digest sent was rejected"):
            answer_challenge(messages, key)
        messages.close()
        stranger.sendall(b'{"say":"here","host":"node1"}\n')
        assert is_shut(stranger)
    assert came.empty()


def test_an_agent_with_another_runs_key_is_told_that_it_finds_no_supervisor(run, came):
    (run.nodes / KEY_NAME).write_text("00" * 32)
    with pytest.raises(NoSupervisorError, match="no supervisor of the run could be joined in 1 s"):
        join(run, "node1", 1.0)
    assert came.empty()


@pytest.mark.parametrize("said", said_by_strangers(Path("canary")), ids=lambda name: name.replace(" ", "_"))
def test_an_agent_that_meets_a_stranger_executes_nothing_and_finds_the_supervisor_once_it_is_there(
    run, came, tmp_path, said
):
    """The address of a supervisor that ended may be another program's by now."""
    canary = tmp_path / "canary"
    true_place = read_json(run.nodes / ADDRESS_NAME)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        write_json(run.nodes / ADDRESS_NAME, {"address": "127.0.0.1", "port": stranger.getsockname()[1]})
        joined: queue.Queue = queue.Queue()
        agent = threading.Thread(target=lambda: joined.put(join(run, "node1", SOON)), daemon=True)
        agent.start()
        stranger.settimeout(SOON)
        connection, _ = stranger.accept()
        with connection:
            say(connection, said_by_strangers(canary)[said])
            write_json(run.nodes / ADDRESS_NAME, true_place)
    with joined.get(timeout=SOON):
        assert came.get(timeout=SOON).hosts == ("node1",)
    assert not canary.exists()


def test_the_key_is_its_owners_alone_and_another_one_each_time(run, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    keys = []
    for _ in range(2):
        listener = Listener(run, ["127.0.0.1"], lambda _: None)
        keys.append((run.nodes / KEY_NAME).read_text())
        assert stat.S_IMODE((run.nodes / KEY_NAME).stat().st_mode) == 0o600
        assert stat.S_IMODE(run.nodes.stat().st_mode) == 0o700
        listener.close()
        assert not run.nodes.exists(), "nothing else was written"
    assert len(set(keys)) == 2 and all(len(bytes.fromhex(key)) == 32 for key in keys)


def test_a_door_that_closes_late_leaves_those_of_the_next_supervisor(run, monkeypatch):
    """As one does that was frozen, and has lost the run meanwhile."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    links: queue.Queue = queue.Queue()
    former = Listener(run, ["127.0.0.1"], lambda _: None)
    latter = Listener(run, ["127.0.0.1"], links.put)
    former.close()
    with join(run, "node1", SOON):
        assert links.get(timeout=SOON).hosts == ("node1",)
    latter.close()
    assert not run.nodes.exists()


def test_a_key_of_the_scheduler_is_used_and_never_written_down(run, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "from a secret")
    links: queue.Queue = queue.Queue()
    listener = Listener(run, ["127.0.0.1"], links.put)
    try:
        with join(run, "node1", SOON):
            assert links.get(timeout=SOON).hosts == ("node1",)
        assert not (run.nodes / KEY_NAME).exists()
        monkeypatch.setenv(KEY_VARIABLE, "from another secret")
        with pytest.raises(NoSupervisorError):
            join(run, "node1", 1.0)
    finally:
        listener.close()


def test_a_closed_door_says_so_in_time(run, came):
    (run.nodes / ADDRESS_NAME).unlink()
    began = time.monotonic()
    with pytest.raises(NoSupervisorError, match="no supervisor has written where it is"):
        join(run, "node1", 0.5)
    assert time.monotonic() - began < SOON
    assert came.empty()


def test_the_door_is_no_loopback_address_where_another_name_leads_elsewhere():
    """As on a machine whose own name means 127.0.1.1 to itself."""
    elsewhere = socket.gethostbyname(socket.gethostname())
    assert address_facing(["127.0.0.1"], {}) == "127.0.0.1", "a host alone"
    if not elsewhere.startswith("127."):
        assert address_facing(["127.0.0.1", elsewhere], {}) == elsewhere
        assert address_facing(["localhost", "no-such-host.invalid"], {"MASTER_ADDR": elsewhere}) == elsewhere


def test_hosts_that_nobody_knows_are_told_with_what_to_do(monkeypatch):
    monkeypatch.setattr("launcher.fleet.listener._ELSEWHERE", "no-such-host.invalid")
    with pytest.raises(ConfigError, match=r"node0.*set MASTER_ADDR"):
        address_facing(["node0.invalid", "node1.invalid"], {})
