"""Prints what the signs of life cost a rank, and what watching them costs the supervisor. Median of many calls."""

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from launcher.backend import RankBeat
from launcher.hang_watch import HangWatch
from launcher.local_ranks import read_local_beats
from llama_dist.config import RunDirectory, SupervisionConfig
from llama_dist.runtime.heartbeat import Heartbeat

NUM_CALLS = 2000
NUM_RANKS_OF_A_NODE = 8
NUM_RANKS = 2048


def main() -> None:
    """Time each in turn and print the table."""
    with tempfile.TemporaryDirectory() as folder:  # on a local disk; a network file system takes milliseconds
        run = RunDirectory(Path(folder))
        beats = [Heartbeat(run.heartbeat(rank), 1) for rank in range(NUM_RANKS_OF_A_NODE)]
        for beat in beats:
            beat.beat(1, "train")
        watch = HangWatch(SupervisionConfig(), NUM_RANKS)
        world = dict.fromkeys(range(NUM_RANKS), RankBeat("node", os.getpid(), 1, "train", 0, 0.0, "S"))
        host = socket.gethostname()
        print("| what | microseconds |\n|---|---|")
        print(f"| a beat, which a rank writes twice a step | {cost(lambda: beats[0].beat(2, 'train')):,.1f} |")
        left_out = cost(lambda: beats[0].begin_micro_batch(3))
        print(f"| a micro-batch of a fast step, which is not written | {left_out:,.2f} |")
        reading = cost(lambda: read_local_beats(run.heartbeats, 1, host), num_calls=200)
        print(f"| reading the beats of {NUM_RANKS_OF_A_NODE} ranks, twice a second | {reading:,.0f} |")
        watching = cost(lambda: watch.observe(world, time.monotonic()), num_calls=200)
        print(f"| judging {NUM_RANKS} ranks, twice a second | {watching:,.0f} |")


def cost(action: Callable[[], object], num_calls: int = NUM_CALLS) -> float:
    """Median microseconds of a call."""
    seconds = []
    for _ in range(num_calls):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1e6


if __name__ == "__main__":
    main()
