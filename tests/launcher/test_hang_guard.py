"""The road from a hang to its sentence, with real ranks over gloo of which one stops, blocks or reads for ever."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.hang_evidence import collect_evidence
from launcher.hang_guard import HangGuard
from launcher.hang_watch import HangWatch
from launcher.local_ranks import local_ranks, read_local_beats
from llama_dist.config import RunDirectory, SupervisionConfig

PROGRAM = Path(__file__).parent.parent / "rank_programs" / "hanging_ranks.py"
HOST = socket.gethostname()
LIMITS = SupervisionConfig(hang_timeout_min_seconds=6.0)


class LocalRanks:
    """As much of a RunningAttempt as the guard asks for."""

    def __init__(self, run):
        self.run = run

    def is_heard(self):
        return True

    def beats(self):
        return read_local_beats(self.run.heartbeats, 1, HOST)

    def stacks(self, seconds):
        ranks = local_ranks(self.run.heartbeats, 1, HOST)
        return collect_evidence(ranks, self.run.attempt(1) / "stacks", self.run.attempt(1) / "logs", seconds)


@pytest.fixture
def hang(tmp_path):
    """Start ranks that hang as told and guard them to the verdict; answers sentence, verdict, seconds, directory."""
    started = []

    def run(num_ranks=3, **argument):
        run = RunDirectory(tmp_path / "run")
        (tmp_path / "argument.json").write_text(json.dumps({"run": str(run.path), **argument}))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = str(listener.getsockname()[1])
        for rank in range(num_ranks):
            world = {"RANK": str(rank), "WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment = os.environ | world | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, str(PROGRAM), str(tmp_path / "argument.json")]
            started.append(subprocess.Popen(command, env=environment))
        guard = HangGuard(HangWatch(LIMITS, num_ranks), LocalRanks(run), run.attempt(1))
        deadline, verdict = time.monotonic() + 120, None
        while verdict is None:
            assert time.monotonic() < deadline, LocalRanks(run).beats()
            assert all(process.poll() is None for process in started)
            time.sleep(0.1)
            verdict = guard.look()
        began = json.loads(run.heartbeat(argument["rank"]).read_text())["time"]
        assert guard.look() is None, "one verdict is enough"
        return verdict.sentence, verdict, time.time() - began, run.attempt(1)

    yield run
    for process in started:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize(
    ("kind", "because", "first_step_seconds"),
    [
        ("stop", "it is stopped by a signal (state T)", 0.05),
        ("hold_the_lock", "it is in hold_the_lock (rank_programs/hanging_ranks.py:", 0.05),
        # The first step is longer than the limit: no verdict comes of it.
        ("read_data", "it is in read_data (rank_programs/hanging_ranks.py:", 8.0),
    ],
)
def test_a_hung_rank_is_named_with_what_it_does_and_what_the_others_wait_in(hang, kind, because, first_step_seconds):
    sentence, verdict, seconds, directory = hang(hang=kind, rank=1, step=60, first_step_seconds=first_step_seconds)
    assert verdict.ranks == (1,)
    assert sentence.startswith(f"rank 1 on {HOST} hangs in phase read of step 61 for ")
    assert because in sentence
    assert "; 2 other ranks wait in all_reduce (llama_dist/runtime/process_group.py:" in sentence
    assert seconds < 10
    written = json.loads((directory / "hang.json").read_text())
    assert (written["sentence"], written["ranks"]) == (sentence, [1])
    stacks = directory / "hang_stacks.txt"
    assert stacks.read_text().count("=== rank") == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in (stacks, directory / "hang.json")} == {0o600}
