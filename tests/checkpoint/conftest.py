"""A world of one process, an engine whose state is a few plain tensors, and a run with checkpoints and a store."""

import pytest
import torch

from llama_dist.checkpoint.manifest import Progress
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.config import RunDirectory
from llama_dist.parallel.engine import STATES, StatePartition
from llama_dist.parallel.grid import Grid


class PlainEngine:
    """The Engine protocol's state half over two parameters; one of them is held in two ranges."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.grid = Grid(0, 1, 1)
        self.state = {
            (name, state): torch.randn(size, generator=generator)
            for name, size in (("embed.weight", 12), ("norm.weight", 5))
            for state in STATES
        }
        self.restored = None

    def partitions(self):
        whole = {state: self.state["norm.weight", state] for state in STATES}
        yield StatePartition("norm.weight", (5,), 0, whole)
        for start, end in ((0, 7), (7, 12)):
            cut = {state: self.state["embed.weight", state][start:end] for state in STATES}
            yield StatePartition("embed.weight", (4, 3), start, cut)
        copy = {state: torch.zeros(12) for state in STATES}
        yield StatePartition("embed.weight", (4, 3), 0, copy, is_saved_elsewhere=True)

    def scalars(self):
        return {"optimizer_steps": 3.0}

    def restore(self, scalars):
        self.restored = scalars


@pytest.fixture
def plain_engine():
    return PlainEngine


@pytest.fixture
def progress():
    def at(step):
        return Progress(step, step * 100, {"name": "x"}, "test", {"world_size": 1}, {"consumed_samples": step})

    return at


@pytest.fixture
def save_engine():
    """Save an engine's state as a run does, in the writer's thread, and wait."""

    def save(checkpoints, engine, progress, tokenizer=b"a tokenizer"):
        writer = CheckpointWriter(checkpoints, SaveGroup.alone(), lambda *_: [], is_asynchronous=True)
        writer.begin(engine, Contents(progress, engine.scalars(), tokenizer))
        assert writer.wait().alerts == []

    return save


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "runs" / "x")


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def write(run, progress):
    def write(step, value=None):
        tensors = [("weight", state, torch.full((1000,), float(value or step))) for state in STATES]
        scalars = {"optimizer_steps": step}
        return write_checkpoint(
            run.checkpoints, progress(step), tensors, scalars=scalars, tokenizer=b"words", states=STATES
        )

    return write
