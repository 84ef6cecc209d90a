"""Saves and loads checkpoints on the ranks of one gloo world, without DeepSpeed; rank 0 prints every rank's results.

Jobs run one after the other: {"do": "save", "checkpoints": path, "step": 3}, {"do": "load", "checkpoints": path} and,
on rank 0 alone, {"do": "remove", "paths": [...]}, {"do": "merge", "paths": [...], "into": path} and {"do": "flip",
"path": ...}. With "num_nodes" the ranks are that
many nodes with disks of their own, and "{node}" in a path becomes the node's number. Paths may be a list by rank.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from llama_dist.checkpoint.load import agree_on_newest_good, load_into
from llama_dist.checkpoint.manifest import CheckpointError, Progress
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.parallel.engine import STATES, StatePartition
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.process_group import all_gather_json, process_group
from llama_dist.runtime.world import World

SHAPES = {"embed.weight": (40, 50), "layers.0.weight": (30, 30), "layers.1.weight": (30, 30), "norm.weight": (7,)}


def content(name, state, step):
    """The same values for the test that writes and the ranks that read."""
    seed = step * 100 + list(SHAPES).index(name) * 10 + STATES.index(state)
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))


class SplitEngine:
    """The Engine protocol's state half: every parameter is cut evenly over the ranks."""

    def __init__(self, world, step=None, shapes=None):
        self.grid = Grid(world.rank, world.world_size, 1)
        self.restored = None
        self.held = []
        for name, shape in (shapes or SHAPES).items():
            size = torch.Size(shape).numel()
            start, end = size * world.rank // world.world_size, size * (world.rank + 1) // world.world_size
            tensors = {
                state: torch.full((end - start,), 9.0)
                if step is None
                else content(name, state, step).view(-1)[start:end].clone()
                for state in STATES
            }
            if end > start:
                self.held.append(StatePartition(name, tuple(shape), start, tensors))

    def partitions(self):
        return iter(self.held)

    def scalars(self):
        return {"optimizer_steps": 3.0}

    def restore(self, scalars):
        self.restored = scalars

    def holds(self, step):
        return all(
            torch.equal(tensor, content(one.name, state, step).view(-1)[one.offset : one.offset + one.length])
            for one in self.held
            for state, tensor in one.tensors.items()
        )


def save(job, checkpoints, world):
    group = SaveGroup.beside_training(world, 60, is_shared="num_nodes" not in job)
    writer = CheckpointWriter(checkpoints, group, lambda *_: [], is_asynchronous=True)
    progress = Progress(job["step"], 100, {"model": {"vocabulary_size": 40}}, "test", {}, {})
    writer.begin(SplitEngine(world, job["step"]), Contents(progress, {"optimizer_steps": 3.0}, b"a tokenizer"))
    return {"step": writer.wait().step}


def load(job, checkpoints, world):
    told = []
    engine = SplitEngine(world, shapes=SHAPES | job.get("shapes", {}))
    try:
        local_rank = world.local_rank if "num_nodes" in job else None
        found = agree_on_newest_good(checkpoints, world.rank, world.world_size, local_rank=local_rank)
        if found is None:
            return {"step": None}
        if job.get("gone_after_verification") == world.rank:
            # Stands for a disk that fails between verification and load: this rank looks where the file is not.
            found = replace(found, directory=found.directory.parent / "nowhere")
        if "flipped_after_verification" in job and world.rank == 0:
            flip(Path(job["flipped_after_verification"]))
        load_into(engine, found, model_config=job.get("model_config"), tell=told.append)
    except CheckpointError as error:
        return {"error": str(error)}
    step = found.manifest.step
    right = engine.holds(step) and engine.restored == {"optimizer_steps": 3.0}
    return {"step": step, "passed_over": found.passed_over, "told": told, "right": right}


def run_job(job, world):
    ranks_per_node = world.world_size // job.get("num_nodes", 1)
    here = World(world.rank, world.rank % ranks_per_node, world.world_size)
    if job["do"] in ("save", "load"):
        place = job["checkpoints"]
        place = place[world.rank] if isinstance(place, list) else place
        checkpoints = Path(place.replace("{node}", str(world.rank // ranks_per_node)))
        return (save if job["do"] == "save" else load)(job, checkpoints, here)
    if world.rank == 0:
        for path in map(Path, job.get("paths", [])):
            if job["do"] == "merge":
                shutil.copytree(path, job["into"], dirs_exist_ok=True, symlinks=True, ignore=lambda *_: ["latest"])
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if job["do"] == "flip":
            flip(Path(job["path"]))
    return {}


def flip(path):
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def main():
    jobs = json.loads(Path(sys.argv[1]).read_text())
    world = World.from_environment()
    with process_group(world, timeout_seconds=30):
        results = [all_gather_json(run_job(job, world)) for job in jobs]
        if world.rank == 0:
            print(json.dumps(results))


if __name__ == "__main__":
    main()
