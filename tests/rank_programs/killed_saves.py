"""Kills a save at each of its calls to the disk, one after the other, and tells what was found afterwards, as JSON.

Argument: {"directory": ...}. Every save is that of a process of its own, forked from this one, which restores and saves
by a run's own keeper. Once the save comes upon nothing of its step, and once upon what an earlier kill left of it.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import distributed

from llama_dist.checkpoint.load import find_newest_good, load_weights
from llama_dist.checkpoint.manifest import MANIFEST_NAME, step_directory
from llama_dist.config import RunDirectory, parse_run_config
from llama_dist.parallel.engine import STATES, StatePartition
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.process_group import World
from llama_dist.train.keeper import CheckpointKeeper, Position

WATCHED = ("open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "symlink")
NEVER = 10**9
CONFIG = {
    "name": "killed",
    "model": {"vocabulary_size": 8, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "feed_forward_size": 8},
    "data": {"sources": [{"path": "unused"}], "sequence_length_tokens": 16},
    "batch": {"global_batch_sequences": 4},
    "train": {"num_steps": 7},
    "checkpoint": {"keep_last": 1},
}


class Engine:
    """One parameter whose every element is the step."""

    grid = Grid(0, 1, 1)

    def __init__(self):
        self.tensors = {state: torch.zeros(6) for state in STATES}

    def partitions(self):
        yield StatePartition("weight", (2, 3), 0, self.tensors)

    def scalars(self):
        return {}

    def restore(self, scalars):
        pass

    def train_to(self, step):
        for tensor in self.tensors.values():
            tensor.fill_(step)


class Stream:
    """The half of a token stream that a keeper asks for."""

    def __init__(self, directory):
        self.tokenizer_path = directory / "any.model"
        self.tokenizer_path.write_bytes(b"a tokenizer")

    def state(self, _consumed_samples):
        return SimpleNamespace(model_dump=dict)


def save(checkpoints, step, kill_at):
    """What an attempt does: restore, train, save in the writer's thread, prune. The kill comes after the start."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    run, engine = RunDirectory(checkpoints.parent), Engine()
    config = parse_run_config(CONFIG, where="killed_saves")
    keeper = CheckpointKeeper(run, World(0, 0, 1), config, Stream(run.path), "test")
    keeper.restore_newest(engine, lambda _: None)
    engine.train_to(step)
    KilledAt(kill_at)
    keeper.save(engine, Position(step, step))
    keeper.finish()
    assert keeper.take_alerts() == []


class KilledAt:
    """Ends this process at the nth watched call; at a write, with half of it done."""

    def __init__(self, number):
        self.left = number
        for name in WATCHED:
            setattr(os, name, self.counting(name, getattr(os, name)))

    def counting(self, name, function):
        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                if name == "write":
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                print(name, end="", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call


def save_in_child(checkpoints, step, kill_at):
    """Answers the name of the call that the child died in, or None where it lived."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write_end, 2)
        save(checkpoints, step, kill_at)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        name = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return name
    assert os.WEXITSTATUS(status) == 0, name
    return None


def newest(checkpoints):
    """Step of the newest good checkpoint; asserts that it holds what was saved at that step."""
    manifest, weights = load_weights(find_newest_good(checkpoints))
    assert torch.equal(weights["weight"], torch.full((2, 3), float(manifest.step)))
    return manifest.step


def prepare(checkpoints, over_unfinished):
    """A good step 1, and maybe a step 2 that a kill cut off."""
    good = checkpoints.with_name("good")
    if not good.exists():
        save_in_child(checkpoints, 1, kill_at=NEVER)
        checkpoints.rename(good)
    shutil.rmtree(checkpoints, ignore_errors=True)
    shutil.copytree(good, checkpoints, symlinks=True)
    if over_unfinished:
        shutil.copytree(step_directory(checkpoints, 1), step_directory(checkpoints, 2))
        (step_directory(checkpoints, 2) / MANIFEST_NAME).rename(step_directory(checkpoints, 2) / ".manifest.json.new")


def kill_everywhere(checkpoints, over_unfinished):
    results = []
    while not results or results[-1]["killed_in"]:
        prepare(checkpoints, over_unfinished)
        killed_in = save_in_child(checkpoints, 2, kill_at=len(results) + 1)
        found = newest(checkpoints)
        save_in_child(checkpoints, 3, kill_at=NEVER)
        entries = sorted(path.name for path in checkpoints.iterdir())
        results.append({"killed_in": killed_in, "newest": found, "then": newest(checkpoints), "entries": entries})
    return results


def main():
    checkpoints = Path(json.loads(Path(sys.argv[1]).read_text())["directory"]) / "checkpoints"
    results = {
        "nothing": kill_everywhere(checkpoints, over_unfinished=False),
        "unfinished": kill_everywhere(checkpoints, over_unfinished=True),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
