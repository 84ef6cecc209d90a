"""Prints how far 20 steps on each topology are from one process: the table of docs/topologies.md.

Starts real worlds of 1, 2 and 4 gloo processes on this machine; takes about two minutes.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent.parent / "tests" / "rank_programs" / "engine_jobs.py"
ZERO = [(0, 1), (1, 1), (2, 1), (3, 1)]
PIPELINE = [(1, 2)]
WORLDS = [(1, ZERO), (2, ZERO), (2, PIPELINE), (4, PIPELINE)]


def main() -> None:
    """Run every topology in fp32 and bf16 and print both tables."""
    for precision in ("fp32", "bf16"):
        results: dict[str, list[float]] = {}
        for world_size, topologies in WORLDS:
            jobs = {
                _name(zero, pp, world_size): {"zero": zero, "pp": pp, "precision": precision, "steps": [0, 20]}
                for zero, pp in topologies
            }
            results |= {name: result["losses"] for name, result in run_world(world_size, jobs).items()}
        print_table(precision, results)


def print_table(precision: str, results: dict[str, list[float]]) -> None:
    """One row a topology: first and last loss, and the largest distance of any step's loss from the first row's."""
    reference = next(iter(results.values()))
    print(f"\n| {precision} | loss of step 1 | loss of step 20 | largest distance of any step |\n|---|---|---|---|")
    for name, losses in results.items():
        distance = max(abs(one - other) for one, other in zip(losses, reference, strict=True))
        print(f"| {name} | {losses[0]:.6f} | {losses[-1]:.6f} | {distance:.1e} |")


def run_world(world_size: int, jobs: dict[str, Any]) -> Any:
    """Run the jobs on `world_size` processes; answers rank 0's results."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        argument = Path(directory) / "jobs.json"
        argument.write_text(json.dumps(jobs), encoding="utf-8")
        shared = {
            "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        ranks = [
            subprocess.Popen(
                [sys.executable, str(PROGRAM), str(argument)],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(world_size)
        ]
        output, _ = ranks[0].communicate(timeout=300)
        for rank in ranks:
            rank.wait(timeout=60)
    return json.loads(output.strip().splitlines()[-1])


def _name(zero: int, pp: int, world_size: int) -> str:
    return f"ZeRO-{zero} x {world_size}" if pp == 1 else f"pipeline {pp} x DP {world_size // pp}, ZeRO-{zero}"


if __name__ == "__main__":
    main()
