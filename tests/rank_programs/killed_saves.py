"""Kills a save at each of its calls to the disk, one after the other, and tells what was found afterwards, as JSON.

Argument: {"directory": ...}. Every save is that of a process of its own, forked from this one. Once the save comes
upon nothing of its step, and once upon what an earlier kill left of it.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from llama_dist.checkpoint.load import find_newest_good, load_weights
from llama_dist.checkpoint.manifest import MANIFEST_NAME, Progress, step_directory
from llama_dist.checkpoint.save import tidy_up
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.parallel.engine import STATES, StatePartition

WATCHED = ("open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "symlink")
NEVER = 10**9


class Engine:
    """One parameter whose every element is the step."""

    def __init__(self, step):
        self.tensors = {state: torch.full((6,), float(step)) for state in STATES}

    def partitions(self):
        yield StatePartition("weight", (2, 3), 0, self.tensors)

    def scalars(self):
        return {}


def save(checkpoints, step):
    """As a run saves: in the writer's thread, with the pruning that follows."""

    def prune(_directory, _manifest):
        tidy_up(checkpoints, step, keep_last=1)
        return []

    writer = CheckpointWriter(checkpoints, SaveGroup.alone(), prune, is_asynchronous=True)
    writer.begin(Engine(step), Contents(Progress(step, step, {}, "test", {}, {}), {}, b"a tokenizer"))
    assert writer.wait().alerts == []


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
        KilledAt(kill_at)
        save(checkpoints, step)
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
    shutil.rmtree(checkpoints, ignore_errors=True)
    save(checkpoints, 1)
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
