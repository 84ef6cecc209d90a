"""Fixtures of all tests: small worlds of real processes over gloo."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "rank_programs"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory):
    """Run a program of tests/rank_programs on `world_size` gloo processes; answers rank 0's last line as JSON."""

    def run(program: str, world_size: int, argument, *, timeout_seconds: float = 240):
        tmp_path = tmp_path_factory.mktemp("ranks")
        argument_file = tmp_path / f"argument_{world_size}.json"
        argument_file.write_text(json.dumps(argument))
        shared = {
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        ranks = []
        for rank in range(world_size):
            log = (tmp_path / f"rank_{world_size}_{rank}.log").open("w+")
            ranks.append(
                (
                    subprocess.Popen(
                        [sys.executable, str(PROGRAMS / program), str(argument_file)],
                        env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=subprocess.PIPE if rank == 0 else log,
                        stderr=log,
                        text=True,
                    ),
                    log,
                )
            )
        try:
            output, _ = ranks[0][0].communicate(timeout=timeout_seconds)
            codes = [process.wait(timeout=60) for process, _ in ranks]
        finally:
            for process, _ in ranks:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if any(codes):
            logs = []
            for rank, (_, log) in enumerate(ranks):
                log.seek(0)
                logs.append(f"--- rank {rank} ---\n{log.read()[-3000:]}")
            raise AssertionError(f"{program} on {world_size} ranks ended with {codes}\n" + "\n".join(logs))
        for _, log in ranks:
            log.close()
        return json.loads(output.strip().splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def world_of_one(tmp_path_factory):
    """A gloo process group of this process alone."""
    import torch

    store = tmp_path_factory.mktemp("store") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
