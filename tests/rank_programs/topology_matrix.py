"""Writes a checkpoint by each topology of this world, or resumes every checkpoint on each; rank 0 prints the outcome.

The argument: {"root": directory, "write" or "read": [topology], "sources": [name]}. A topology: {"name", "zero", "pp",
"split", "offload"}. State is compared with the files as safetensors reads them, without the project's own reader.
"""

import json
import sys
from pathlib import Path

import torch

sys.modules["mlflow"] = None  # as the trainer does: DeepSpeed would import it for nothing
from engine_jobs import GLOBAL_BATCH, LENGTH, VOCABULARY, micro_batches
from safetensors.torch import load_file

from llama_dist.checkpoint.load import agree_on_newest_good, load_into
from llama_dist.checkpoint.manifest import Progress, read_manifest, step_directory
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.config import OptimizerConfig, parse_run_config
from llama_dist.optim.adamw import build_adamw
from llama_dist.parallel.build import build_engine, join_deepspeed
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.process_group import all_gather_json, process_group
from llama_dist.runtime.world import World

SAVED_STEP, LAST_STEP = 4, 25


def learning_rate(step):
    """A schedule that falls, as a function of the step alone."""
    return 1e-2 / (1 + step)


def config_of(topology):
    return parse_run_config(
        {
            "name": "matrix",
            "model": {
                "vocabulary_size": VOCABULARY,
                "hidden_size": 32,
                "num_layers": 4,
                "num_heads": 4,
                "feed_forward_size": 64,
                "max_sequence_length_tokens": LENGTH,
            },
            "data": {"sequence_length_tokens": LENGTH, "sources": [{"path": "unused"}]},
            "batch": {"global_batch_sequences": GLOBAL_BATCH, "micro_batch_sequences": 2},
            "train": {"num_steps": 1000, "precision": "fp32"},
            "parallel": {
                "zero_stage": topology["zero"],
                "pipeline_stages": topology["pp"],
                "layers_per_stage": topology.get("split"),
                "offload_optimizer": topology.get("offload", False),
            },
        },
        where="topology_matrix",
    )


def engine_of(topology, world):
    config = config_of(topology)
    grid = Grid(world.rank, world.world_size, config.parallel.pipeline_stages)
    return build_engine(config, grid, lambda named: build_adamw(named, OptimizerConfig()))


def train(engine, first, last):
    return [
        engine.train_batch(micro_batches(step, engine.grid), learning_rate(step)).loss for step in range(first, last)
    ]


def write(topology, root, world):
    """Train, save in mid-run as a run does, and go on while the files are written: answers the losses after it."""
    engine = engine_of(topology, world)
    group = SaveGroup.beside_training(world, 120, is_shared=True)
    writer = CheckpointWriter(root / topology["name"], group, lambda *_: [], is_asynchronous=True)
    writer.prepare(engine)
    writer.warm(engine)
    train(engine, 0, SAVED_STEP)
    tokens = SAVED_STEP * GLOBAL_BATCH * LENGTH
    progress = Progress(SAVED_STEP, tokens, {}, "test", {"world_size": world.world_size}, {})
    writer.begin(engine, Contents(progress, engine.scalars(), b"any will do"))
    losses = train(engine, SAVED_STEP, LAST_STEP)
    assert writer.wait().alerts == []
    return losses


def whole_state(checkpoints):
    """Each parameter's flattened state, put together from the files."""
    directory = step_directory(checkpoints, SAVED_STEP)
    manifest = read_manifest(directory)
    files = [load_file(directory / file.name) if file.name.endswith(".safetensors") else {} for file in manifest.files]
    whole = {}
    for name, record in manifest.tensors.items():
        for state in manifest.states:
            pieces = [files[piece.file][f"{name}:{state}:{piece.offset}"] for piece in record.pieces]
            whole[name, state] = torch.cat(pieces)
            assert whole[name, state].numel() == record.num_elements
    return whole


def differing_states(engine, whole):
    """What this rank holds otherwise than the checkpoint, and how many elements it holds."""
    differing, num_held = [], 0
    for part in engine.partitions():
        num_held += 0 if part.is_saved_elsewhere else part.length
        for state, tensor in part.tensors.items():
            if not torch.equal(tensor.cpu(), whole[part.name, state][part.offset : part.offset + part.length]):
                differing.append(f"{part.name} {state} from {part.offset}")
    return differing, num_held


def read(topology, root, sources, world):
    """Resume every source on one engine, which each load must leave as if it were new."""
    engine = engine_of(topology, world)
    outcomes = {}
    for source in sources:
        whole = whole_state(root / source)
        load_into(engine, agree_on_newest_good(root / source, world.rank, world.world_size))
        ranks = all_gather_json(differing_states(engine, whole))
        outcomes[source] = {
            "differing": [one for differing, _ in ranks for one in differing],
            "num_held": sum(num_held for _, num_held in ranks),
            "num_elements": sum(tensor.numel() for (_, state), tensor in whole.items() if state == "fp32"),
            "losses": train(engine, SAVED_STEP, LAST_STEP),
        }
    return outcomes


def main():
    argument = json.loads(Path(sys.argv[1]).read_text())
    root, world = Path(argument["root"]), World.from_environment()
    with process_group(world, timeout_seconds=120):
        join_deepspeed()
        outcomes = {one["name"]: write(one, root, world) for one in argument.get("write", [])}
        for one in argument.get("read", []):
            outcomes[one["name"]] = read(one, root, argument["sources"], world)
        if world.rank == 0:
            print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
