"""What the keeper does on two real ranks when a disk is full, and when each rank has a disk of its own.

Argument: {"full": a directory on a small disk, "local": a directory for the nodes' disks}. Rank 0 prints JSON.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

sys.modules["mlflow"] = None  # as the trainer does: DeepSpeed would import it for nothing
from engine_jobs import micro_batches, run_config

from llama_dist.checkpoint.load import find_newest_good
from llama_dist.checkpoint.manifest import CheckpointError, list_steps, read_manifest
from llama_dist.config import OptimizerConfig, RunDirectory
from llama_dist.optim.adamw import build_adamw
from llama_dist.parallel.build import build_engine, join_deepspeed
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.process_group import all_gather_json, process_group
from llama_dist.runtime.world import World
from llama_dist.train.keeper import CheckpointKeeper, Position


class Stream:
    """The half of a token stream that a keeper asks for."""

    def __init__(self, directory):
        self.tokenizer_path = directory / "any.model"
        self.tokenizer_path.write_bytes(b"any will do")

    def state(self, consumed_samples):
        return SimpleNamespace(model_dump=lambda: {"consumed_samples": consumed_samples})


class Saver:
    """Trains a real engine, and saves it with a keeper of its own."""

    def __init__(self, engine, grid, directory, world, **checkpoint):
        config = run_config({"zero": 1})
        config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update=checkpoint)})
        self.run = RunDirectory(directory)
        self.run.metrics.mkdir(parents=True, exist_ok=True)
        self.run.tracking_identity.write_text(json.dumps({"key": f"of rank {world.rank}"}))
        self.keeper = CheckpointKeeper(self.run, world, config, Stream(directory), "test")
        self.engine, self.grid = engine, grid

    def save(self, step):
        """Save, train a step while the file is written, and wait; answers what went wrong."""
        self.keeper.save(self.engine, Position(step, step))
        result = self.engine.train_batch(micro_batches(step, self.grid), 1e-2)
        failure = None
        try:
            self.keeper.finish()
        except CheckpointError as error:
            failure = str(error)
        return {
            "loss": result.loss,
            "failure": failure,
            "alerts": self.keeper.take_alerts(),
            "newest": find_newest_good(self.run.checkpoints).name,
            "left": sorted(path.name for path in self.run.checkpoints.glob(".*")),
        }


def on_a_full_disk(engine, grid, world, directory):
    """Save, save with too little space for a rank's file, free the space, save."""
    saver = Saver(engine, grid, directory, world)
    ballast = directory / "ballast"
    outcomes = [saver.save(1)]
    all_gather_json(None)
    if world.rank == 0:
        size = (saver.run.checkpoints / "step_00000001" / "rank_00000.safetensors").stat().st_size
        fill(ballast, directory, leaving=size + size // 2)
    all_gather_json(None)
    outcomes.append(saver.save(2))
    all_gather_json(None)
    if world.rank == 0:
        ballast.unlink()
    all_gather_json(None)
    return [*outcomes, saver.save(3)]


def fill(ballast, directory, leaving):
    free = os.statvfs(directory)
    ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - leaving))


def on_local_disks(engine, grid, world, directory):
    """Each rank is a node of its own, with a disk of its own."""
    node = World(world.rank, 0, world.world_size)
    saver = Saver(engine, grid, directory / f"node_{world.rank}", node, shared=False, keep_last=1)
    for step in (1, 2):
        saver.keeper.save(engine, Position(step, step))
    saver.keeper.finish()
    checkpoints = saver.run.checkpoints
    newest = checkpoints / "step_00000002"
    manifest = read_manifest(newest)
    mine = {
        "steps": list_steps(checkpoints),
        "files": sorted(path.name for path in newest.iterdir()),
        "manifest": (newest / "manifest.json").read_text(),
        "hosts": {file.name: file.host for file in manifest.files},
        "tracking": manifest.tracking,
        "alerts": saver.keeper.take_alerts(),
    }
    return all_gather_json(mine)


def main():
    argument = json.loads(Path(sys.argv[1]).read_text())
    world = World.from_environment()
    with process_group(world, timeout_seconds=60):
        join_deepspeed()
        config = run_config({"zero": 1})
        grid = Grid(world.rank, world.world_size, 1)
        engine = build_engine(config, grid, lambda named: build_adamw(named, OptimizerConfig()))
        results = {"local": on_local_disks(engine, grid, world, Path(argument["local"]))}
        if argument["full"]:
            results["full"] = on_a_full_disk(engine, grid, world, Path(argument["full"]))
        if world.rank == 0:
            print(json.dumps(results))


if __name__ == "__main__":
    main()
