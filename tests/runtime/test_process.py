"""Agreement of ranks, heartbeats, stop requests and exit records."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from llama_dist.config import RunDirectory
from llama_dist.runtime.exit_record import write_exit_record
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.process_group import PeerLostError, peers_named
from llama_dist.runtime.stop import StopAskedError, StopRequest
from llama_dist.runtime.world import World

PROGRAM = """
import os, sys, time
from llama_dist.runtime.process_group import all_gather_json, any_rank, broadcast_json
from llama_dist.runtime.world import World
from llama_dist.runtime.process_group import peers_named, process_group
world = World.from_environment()
with peers_named(world, lambda: "in the test"), process_group(world, timeout_seconds=20):
    assert all_gather_json({"rank": world.rank, "text": "é" * world.rank}) == [
        {"rank": rank, "text": "é" * rank} for rank in range(world.world_size)
    ]
    assert broadcast_json(f"of {world.rank}") == "of 0"
    assert any_rank(world.rank == 1) and not any_rank(False)
    if world.rank == 1:
        os._exit(9)
    any_rank(False)
"""


def test_ranks_agree_and_a_lost_peer_is_named_and_never_waited_for(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    _, errors = ranks[0].communicate(timeout=60)
    ranks[1].communicate(timeout=60)
    assert ranks[1].returncode == 9, "rank 1 agreed with rank 0 on everything before it left"
    assert "PeerLostError: rank 0 of 2 lost a peer in the test" in errors


def test_only_communication_failures_become_a_lost_peer():
    world = World(0, 0, 2)
    with pytest.raises(PeerLostError, match="rank 0 of 2 lost a peer here"), peers_named(world, lambda: "here"):
        raise RuntimeError("[third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), peers_named(world, lambda: "here"):
        raise RuntimeError("shapes cannot be multiplied")


def test_a_heartbeat_names_this_very_process(tmp_path):
    heartbeat = Heartbeat(tmp_path / "heartbeats" / "rank_00000.json", attempt=3)
    heartbeat.beat(7, "train")
    values = json.loads((tmp_path / "heartbeats" / "rank_00000.json").read_text())
    assert (values["step"], values["phase"], values["attempt"], values["pid"]) == (7, "train", 3, os.getpid())
    assert values["create_time"] == psutil.Process().create_time()
    assert "step 7" in heartbeat.where() and "train" in heartbeat.where()


def test_micro_batches_of_a_fast_step_are_not_written_and_those_of_a_slow_one_are(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("llama_dist.runtime.heartbeat.time.monotonic", lambda: now)
    heartbeat = Heartbeat(tmp_path / "rank.json", attempt=1)
    heartbeat.beat(7, "train")
    written = []
    for number in range(1, 11):
        now += 0.125
        heartbeat.begin_micro_batch(number)
        written.append(json.loads((tmp_path / "rank.json").read_text())["micro_batch"])
    assert written == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8]
    assert (heartbeat.step, heartbeat.phase) == (7, "train")


def test_a_rank_knows_itself_and_beats_before_it_imports_torch():
    program = "import sys, llama_dist.train.__main__; sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_heartbeat_that_cannot_be_written_does_not_end_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    Heartbeat(tmp_path / "file" / "rank.json", attempt=1).beat(1, "train")


LISTENING = """
import os, sys, time
from llama_dist.runtime.stop import StopAskedError, StopRequest
stop = StopRequest().install()
stop.defer()
print("listening", flush=True)
while True:
    time.sleep(0.01)
    if stop.take_save_request():
        print("save", flush=True)
"""


@pytest.fixture
def stop_request():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield StopRequest().install()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_is_a_request_and_not_an_end(stop_request):
    stop_request.defer()
    assert not stop_request.is_made and stop_request.seconds_ago == 0
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop_request.is_made


def test_a_stop_breaks_off_the_start_and_what_may_be_broken_off(stop_request):
    with pytest.raises(StopAskedError):
        os.kill(os.getpid(), signal.SIGTERM)
    stop_request.defer()
    with pytest.raises(StopAskedError), stop_request.interrupts():
        raise AssertionError("a stop that was asked for before is found at the beginning")


def test_sigusr1_asks_for_one_save(stop_request):
    assert not stop_request.take_save_request()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop_request.take_save_request() and not stop_request.take_save_request()
    assert not stop_request.is_made


def test_an_echo_of_the_first_sigterm_is_no_second_one_which_ends_the_process_at_once():
    process = subprocess.Popen([sys.executable, "-c", LISTENING], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "listening\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "save\n", "it lives on after the echo"
        time.sleep(1.2)  # the time in which signals count as one
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_exit_record_is_written_whole(tmp_path):
    path = tmp_path / "exits" / "rank_00002.json"
    write_exit_record(path, rank=2, exit_code=74, reason="disk", step=5)
    values = json.loads(path.read_text())
    assert (values["rank"], values["exit_code"], values["reason"], values["step"]) == (2, 74, "disk", 5)
    assert list(path.parent.iterdir()) == [path]


def test_a_deleted_run_directory_is_not_made_again(tmp_path):
    run = RunDirectory(tmp_path / "deleted")
    with pytest.raises(FileNotFoundError):
        write_exit_record(run.exit_record(1, 0), rank=0, exit_code=75, reason="lost", step=5)
    Heartbeat(run.heartbeat(0), 1).beat(5, "train")
    assert not run.path.exists()
