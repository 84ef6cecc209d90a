"""One rank of the checkpoint benchmark: our saves and loads and DeepSpeed's own take turns on one engine.

Started by `benchmarks/checkpoint_speed.py`; rank 0 prints one JSON line of what it measured. Not a benchmark itself.
"""
# ruff: noqa: E402 - DeepSpeed looks for mlflow as it is imported

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.modules["mlflow"] = None  # type: ignore[assignment] # as the trainer does: DeepSpeed would import it for nothing

import torch
from torch import distributed

from data_pipeline.stream import TokenStream, open_stream
from llama_dist.checkpoint.load import agree_on_newest_good, load_into
from llama_dist.checkpoint.manifest import Progress
from llama_dist.checkpoint.save import layout_of, owned_partitions
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.config import RunConfig, RunDirectory, parse_run_config
from llama_dist.optim.adamw import build_adamw
from llama_dist.parallel import build
from llama_dist.parallel.deepspeed_config import deepspeed_config
from llama_dist.parallel.engine import Engine, MicroBatch
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.process_group import all_gather_json, process_group
from llama_dist.runtime.world import World
from llama_dist.train.batches import TrainingBatches
from llama_dist.train.keeper import CheckpointKeeper, Position

TAG = "theirs"
SEQUENCE_TOKENS, SEQUENCES_PER_RANK = 256, 2
NEAR, FAR = 10, 100_000  # steps at which a run was saved
STEPS_BESIDE_A_SAVE = 4


def main() -> None:
    """Run the rounds that the argument names: `same` saves and loads, `other` loads what `same` left behind."""
    which, directory, num_rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    world = World.from_environment()
    with process_group(world, timeout_seconds=300):
        build.join_deepspeed()
        measured = (same_topology if which == "same" else other_topology)(directory, num_rounds, world)
        if world.rank == 0:
            print(json.dumps(measured), flush=True)


def run_config(world: World, data: Path = Path("unused")) -> RunConfig:
    """About 35 million parameters: 12 bytes of each are saved, 423 MB."""
    return parse_run_config(
        {
            "name": "speed",
            "model": {
                "vocabulary_size": 32000, "hidden_size": 384, "num_layers": 6, "num_heads": 6,
                "feed_forward_size": 1024, "max_sequence_length_tokens": SEQUENCE_TOKENS,
            },
            "data": {"sources": [{"path": str(data)}], "sequence_length_tokens": SEQUENCE_TOKENS},
            "batch": {
                "global_batch_sequences": SEQUENCES_PER_RANK * world.world_size,
                "micro_batch_sequences": SEQUENCES_PER_RANK,
            },
            "train": {"num_steps": 1000, "precision": "bf16"},
            "parallel": {"zero_stage": 1},
        },
        where="checkpoint_speed",
    )  # fmt: skip


def same_topology(directory: Path, num_rounds: int, world: World) -> dict[str, Any]:
    """Save and load by turns; leaves one checkpoint of either, ours and theirs, in `directory`."""
    engine = build_engine(world)
    step = training_step(engine, world)
    step()
    ours, theirs = Ours(directory / "ours", engine, world), Theirs(directory / "theirs", engine)
    measured: dict[str, list[float]] = {"peak / staged": [ours.peak_over_staged()]}
    resumable = {at: Resumable(directory, engine, world, at) for at in (NEAR, FAR)}
    measured["peak theirs / ours staged"] = [theirs.peak_bytes() / ours.staged_bytes]

    def note(name: str, seconds: float) -> None:
        measured.setdefault(name, []).append(seconds)

    gc.collect()
    gc.freeze()  # else looking through all imports, 25 ms, falls into the same one of the timings each round
    for _ in range(num_rounds):
        note("step", timed(step))
        note("theirs save", theirs.save())
        note("theirs save, synced", theirs.save(sync=True))
        blocked, total = ours.save()
        note("ours save blocks", blocked)
        note("ours save", total)
        with without_fsync():
            note("ours save, not synced", ours.save()[1])
        note("theirs load", timed(theirs.load))
        theirs.relink()
        note("ours load", timed(ours.load))
        note("steps alone", timed(lambda: [step() for _ in range(STEPS_BESIDE_A_SAVE)]))
        ours.begin()
        note("steps beside a save", timed(lambda: [step() for _ in range(STEPS_BESIDE_A_SAVE)]))
        ours.wait()
        for at in (NEAR, FAR, FAR, NEAR):  # what comes first is the quickest, whichever it is
            note(f"resume at step {at}", timed(resumable[at].resume))
    ours.save()
    theirs.save(keep=True)
    sizes = [size_of(directory / name) for name in ("ours", "theirs")]
    return measured | {"bytes ours": sizes[:1], "bytes theirs": sizes[1:]}


def other_topology(directory: Path, num_rounds: int, world: World) -> dict[str, Any]:
    """On another number of ranks: convert and load theirs, load ours."""
    measured: dict[str, list[float]] = {"theirs converts": [], "theirs universal load": [], "ours load": []}
    engine = build_engine(world, {"checkpoint": {"load_universal": True}})
    ours, theirs = Ours(directory / "ours", engine, world), Theirs(directory / "theirs", engine)
    for number in range(num_rounds):
        universal = directory / f"universal_{number}"
        measured["theirs converts"].append(convert(directory / "theirs" / TAG, universal / TAG))
        theirs.directory = universal
        measured["theirs universal load"].append(timed(theirs.load))
        theirs.relink()
        measured["ours load"].append(timed(ours.load))
        shutil.rmtree(universal)
    return measured


class Ours:
    """Our writer and loader over one engine."""

    def __init__(self, directory: Path, engine: Engine, world: World) -> None:
        self._directory, self._engine, self._world = directory, engine, world
        self._group = SaveGroup.beside_training(world, 300, is_shared=True)
        self._writer = CheckpointWriter(directory, self._group, lambda *_: [], is_asynchronous=True)

    @property
    def staged_bytes(self) -> int:
        """Bytes of this rank's staged copy."""
        return layout_of(owned_partitions(self._engine)).num_bytes

    def peak_over_staged(self) -> float:
        """What the first save added to this rank's peak memory, over the size of the staged copy."""
        with peak_resident() as added:
            self._writer.prepare(self._engine)
            self._writer.warm(self._engine)
            self.save()
        return added[0] / self.staged_bytes

    def begin(self) -> None:
        """Collective. Begin a save of a step."""
        shutil.rmtree(self._directory, ignore_errors=True) if self._world.rank == 0 else None
        distributed.barrier()
        self._writer.begin(self._engine, self._contents())

    def wait(self) -> None:
        """Collective. Wait for the checkpoint to exist."""
        self._writer.wait()
        distributed.barrier()

    def save(self) -> tuple[float, float]:
        """Collective. Seconds that training waits, and seconds until the checkpoint exists, of the slowest rank."""
        remove(self._directory)
        started = time.perf_counter()
        self._writer.begin(self._engine, self._contents())
        blocked = time.perf_counter() - started
        self._writer.wait()
        total = time.perf_counter() - started
        return slowest(blocked), slowest(total)

    def load(self) -> None:
        """Collective. What a start does: verify, agree, load."""
        found = agree_on_newest_good(self._directory, self._world.rank, self._world.world_size)
        assert found is not None
        load_into(self._engine, found)

    def _contents(self) -> Contents:
        progress = Progress(1, 0, {}, "benchmark", {"world_size": self._world.world_size}, {})
        return Contents(progress, self._engine.scalars(), b"")


class Resumable:
    """A run over real data that was saved at a step."""

    def __init__(self, directory: Path, engine: Engine, world: World, at: int) -> None:
        self._run, self._engine, self._world = RunDirectory(directory / f"saved_at_{at}"), engine, world
        self._config = run_config(world, directory / "data")
        self._position = Position(at, at * self._config.batch.global_batch_sequences)
        keeper = self._keeper(open_stream(self._config.data))
        keeper.save(engine, self._position)
        keeper.finish()

    def resume(self) -> None:
        """Collective. What a start does once its engine is built: open the data, restore, read the first batch."""
        stream = open_stream(self._config.data)
        batches = TrainingBatches(stream, self._engine.grid, self._config)
        position = self._keeper(stream).restore_newest(self._engine, lambda _: None)
        assert position == self._position
        assert batches.read(position)

    def _keeper(self, stream: TokenStream) -> CheckpointKeeper:
        return CheckpointKeeper(self._run, self._world, self._config, stream, "benchmark")


class Theirs:
    """DeepSpeed's own checkpoints of the same engine."""

    def __init__(self, directory: Path, engine: Any) -> None:
        self.directory = directory
        self._engine = engine._engine

    def save(self, *, sync: bool = False, keep: bool = False) -> float:
        """Collective. Seconds of one save; with `sync` until the disk has it. Without `keep`, ready for the load."""
        remove(self.directory)

        def save() -> None:
            self._engine.save_checkpoint(str(self.directory), TAG, client_state={"universal_checkpoint_info": {}})
            if sync:
                sync_files(self.directory)

        seconds = timed(save)
        sync_files(self.directory)  # what is left to write would slow whoever is next
        return seconds

    def load(self) -> None:
        """Collective. Load the newest."""
        path, _ = self._engine.load_checkpoint(str(self.directory), TAG)
        assert path is not None

    def relink(self) -> None:
        """Their load makes new tensors for the moments and forgets where each parameter's are; ours needs to know."""
        self._engine.optimizer._hp_optimizer_states_linked = False
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def peak_bytes(self) -> float:
        """What one save adds to this rank's peak memory."""
        with peak_resident() as added:
            self.save()
        return added[0]


def build_engine(world: World, deepspeed_options: dict[str, Any] | None = None) -> Engine:
    """Our engine, so that both are measured on one; `deepspeed_options` are added to its DeepSpeed config."""
    config, grid = run_config(world), Grid(world.rank, world.world_size, 1)
    build.deepspeed_config = lambda *parts: deepspeed_config(*parts) | (deepspeed_options or {})
    return build.build_engine(config, grid, lambda named: build_adamw(named, config.optimizer))


def training_step(engine: Engine, world: World) -> Callable[[], object]:
    """One optimizer step on random tokens."""
    generator = torch.Generator().manual_seed(world.rank)
    tokens = torch.randint(0, 32000, (SEQUENCES_PER_RANK, SEQUENCE_TOKENS + 1), generator=generator)
    batches = [MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())]
    return lambda: engine.train_batch(batches, 1e-4)


def convert(source: Path, target: Path) -> float:
    """Rank 0 runs DeepSpeed's converter with its defaults; answers its seconds without the imports."""
    program = (
        "import sys, time, argparse\nfrom deepspeed.checkpoint import ds_to_universal\n"
        "arguments = ds_to_universal.parse_arguments()\nstarted = time.perf_counter()\n"
        "ds_to_universal.main(arguments)\nprint('SECONDS', time.perf_counter() - started)\n"
    )
    options = ["--input_folder", str(source), "--output_folder", str(target), "--inject_missing_state"]
    seconds = 0.0
    if distributed.get_rank() == 0:
        done = subprocess.run(
            [sys.executable, "-c", program, *options], check=False, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seconds = float(done.stdout.split("SECONDS")[1])
    return slowest(seconds)


def timed(action: Callable[[], object]) -> float:
    """Collective. Seconds of the slowest rank, all beginning together."""
    distributed.barrier()
    started = time.perf_counter()
    action()
    return slowest(time.perf_counter() - started)


def slowest(seconds: float) -> float:
    """Collective. The largest of the ranks' values."""
    return float(max(all_gather_json(seconds)))


def remove(directory: Path) -> None:
    """Collective. Remove what was saved before, so that every save begins alike."""
    distributed.barrier()
    if distributed.get_rank() == 0:
        shutil.rmtree(directory, ignore_errors=True)
    distributed.barrier()


def sync_files(directory: Path) -> None:
    """Collective. Wait until the disk has the files; rank 0 asks."""
    distributed.barrier()
    if distributed.get_rank() == 0:
        for path in directory.rglob("*"):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    distributed.barrier()


def size_of(directory: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


@contextlib.contextmanager
def without_fsync() -> Iterator[None]:
    """What a save would take if it left the disk's part to the kernel, as DeepSpeed does."""
    kept, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = kept


@contextlib.contextmanager
def peak_resident() -> Iterator[list[int]]:
    """Yield a list that afterwards holds by how many bytes this process's peak was over its memory at the start."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = _status("VmRSS")
    added: list[int] = []
    yield added
    added.append(_status("VmHWM") - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


if __name__ == "__main__":
    main()
