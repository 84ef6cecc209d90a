"""Rank 1 dies by SIGKILL while it writes its file of a checkpoint; rank 0 waits for the save."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from llama_dist.checkpoint.manifest import Progress
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.parallel.engine import STATES, StatePartition
from llama_dist.runtime.process_group import process_group
from llama_dist.runtime.world import World


class Engine:
    """Each rank holds half of one parameter."""

    def __init__(self, rank):
        self.rank = rank

    def partitions(self):
        yield StatePartition("weight", (8,), 4 * self.rank, {state: torch.zeros(4) for state in STATES})


def main():
    world = World.from_environment()
    checkpoints = Path(json.loads(Path(sys.argv[1]).read_text())["directory"])
    with process_group(world, timeout_seconds=60):
        group = SaveGroup.beside_training(world, 60, is_shared=True)
        writer = CheckpointWriter(checkpoints, group, lambda *_: [], is_asynchronous=True)
        writer.prepare(Engine(world.rank))
        if world.rank == 1:
            os.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        writer.begin(Engine(world.rank), Contents(Progress(7, 7, {}, "test", {}, {}), {}, b""))
        writer.wait()


if __name__ == "__main__":
    main()
