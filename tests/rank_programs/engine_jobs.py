"""Runs named engine jobs, one after the other, on the ranks of one world; rank 0 prints their losses as JSON.

A job: {"zero": 1, "pp": 1, "precision": "fp32", "steps": [0, 20], "tied": false, "recompute": false,
"load": directory, "save": directory, "micro_batch": 2}. With "isolated" the rows hold several documents, and each
one's loss is told too; "alone" trains on those documents one by one, without an engine. "flip" compares the replicas
before and after a bit is flipped. With "dataset" (the data section of a config) batches and evaluation sets come from
a prepared dataset. Pipelines and others need worlds of their own: DeepSpeed keeps its grid.
"""

import json
import sys
from pathlib import Path

import torch

sys.modules["mlflow"] = None  # as the trainer does: DeepSpeed would import it for nothing
from deepspeed.accelerator import get_accelerator
from packed_rows import PackedRows, train_on_documents_alone

from data_pipeline.stream import open_stream
from llama_dist.checkpoint.load import agree_on_newest_good, load_into
from llama_dist.checkpoint.manifest import Progress
from llama_dist.checkpoint.save import save_checkpoint
from llama_dist.config import OptimizerConfig, dump_config, parse_run_config
from llama_dist.model.block import Block
from llama_dist.optim.adamw import build_adamw
from llama_dist.parallel.build import build_engine, join_deepspeed
from llama_dist.parallel.engine import MicroBatch
from llama_dist.parallel.grid import Grid
from llama_dist.runtime.process_group import process_group
from llama_dist.runtime.world import World
from llama_dist.train.batches import TrainingBatches
from llama_dist.train.held_out import HeldOutText, open_held_out_sets
from llama_dist.train.keeper import Position
from llama_dist.train.loop import has_diverged
from llama_dist.train.replicas import ReplicasDifferError, compare_replicas

VOCABULARY, LENGTH, GLOBAL_BATCH, MICRO_BATCH = 96, 32, 8, 2
UNUSED_DATA = {
    isolated: {"sources": [{"path": "unused"}], "isolate_documents": isolated, "mask_boundary_labels": isolated}
    for isolated in (False, True)
}


def run_config(job):
    model = {
        "vocabulary_size": job.get("vocabulary", VOCABULARY),
        "hidden_size": 32,
        "num_layers": job.get("layers", 3),
        "num_heads": 4,
        "attention": "grouped_query",
        "num_kv_heads": 2,
        "feed_forward_size": 64,
        "max_sequence_length_tokens": 64,
        "tie_embeddings": job.get("tied", False),
    } | job.get("model", {})
    return parse_run_config(
        {
            "name": "jobs",
            "model": model,
            "data": {"sequence_length_tokens": LENGTH} | job.get("dataset", UNUSED_DATA[bool(job.get("isolated"))]),
            "batch": {
                "global_batch_sequences": GLOBAL_BATCH,
                "micro_batch_sequences": job.get("micro_batch", MICRO_BATCH),
            },
            "evaluation": job.get("evaluation", {}),
            "train": {
                "num_steps": 1000,
                "precision": job.get("precision", "fp32"),
                "activation_checkpointing": job.get("recompute", False),
                "initial_loss_scale_power": job.get("loss_scale_power", 16),
            },
            "parallel": {
                "zero_stage": job["zero"],
                "pipeline_stages": job.get("pp", 1),
                "layers_per_stage": job.get("split"),
            },
        },
        where="engine_jobs",
    )


def count_block_forwards():
    """Count the forwards of all blocks of this rank, those of the recomputation included."""
    counted, forward = [], Block.forward

    def counting(block, *arguments):
        counted.append(1)
        return forward(block, *arguments)

    Block.forward = counting
    return lambda: len(counted)


num_block_forwards = count_block_forwards()


def micro_batches(step, grid):
    """The same global batch at every topology: pairs of equal tokens, so that there is something to learn."""
    tokens = torch.randint(0, VOCABULARY, (GLOBAL_BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(step))
    tokens[:, 1::2] = tokens[:, 0:-1:2]
    rows = [
        slice(start, start + MICRO_BATCH)
        for start in range(grid.dp_rank * MICRO_BATCH, GLOBAL_BATCH, grid.dp_size * MICRO_BATCH)
    ]
    return [MicroBatch(tokens[row, :-1].contiguous(), tokens[row, 1:].contiguous()) for row in rows]


def packed_rows(step):
    return PackedRows(step, GLOBAL_BATCH, LENGTH, VOCABULARY)


def packed_micro_batches(rows, labels, grid, size):
    starts = range(grid.dp_rank * size, GLOBAL_BATCH, grid.dp_size * size)
    return [
        MicroBatch(*(part[start : start + size] for part in (rows.tokens, labels, rows.positions))) for start in starts
    ]


def batches_of(job, config, grid):
    """What the job trains on: a function of the step."""
    if job.get("isolated"):
        size = config.batch.micro_batch_sequences
        return lambda step: packed_micro_batches(packed_rows(step), packed_rows(step).labels, grid, size)
    if job.get("dataset"):
        batches = TrainingBatches(open_stream(config.data), grid, config)
        return lambda step: batches.read(Position(step, step * GLOBAL_BATCH))
    return lambda step: micro_batches(step, grid)


def evaluations(job, config, grid, engine, first):
    """The losses of an untrained engine on each document, or on each evaluation set."""
    if job.get("isolated"):
        rows, size = packed_rows(first), config.batch.micro_batch_sequences
        labels = [rows.labels_of(document) for document in rows.documents]
        return {
            "document_losses": [engine.evaluate(packed_micro_batches(rows, one, grid, size)) for one in labels],
        }
    if job.get("dataset"):
        held_out = HeldOutText(open_held_out_sets(config, open_stream(config.data)), grid, config)
        return {"sets": held_out.losses(engine, lambda: False)}
    return {}


def replicas_before_and_after_a_flip(engine):
    """What a comparison says of the replicas as they are, and after one bit of one weight of rank 1 has changed."""
    told = []
    for is_flipped in (False, True):
        weight = list(engine._engine.module.parameters())[-1].data.view(-1)
        bits = weight.view(torch.int32 if weight.element_size() == 4 else torch.int16)
        bits[0] ^= int(is_flipped and engine.grid.rank == 1)
        try:
            compare_replicas(engine, 7)
            told.append("")
        except ReplicasDifferError as error:
            told.append(str(error))
        bits[0] ^= int(is_flipped and engine.grid.rank == 1)
    return told


def run_job(job, world):
    config = run_config(job)
    rate = job.get("learning_rate", 1e-2)
    if job.get("alone"):
        return train_on_documents_alone(config, job["steps"], rate, packed_rows)
    if job.get("pretend_fp16"):
        # DeepSpeed asks for fast fp16 kernels; the slow ones compute the same, and loss scaling is what is tested.
        get_accelerator().is_fp16_supported = lambda: True
    grid = Grid(world.rank, world.world_size, config.parallel.pipeline_stages)
    engine = build_engine(config, grid, lambda named: build_adamw(named, OptimizerConfig()))
    first, last = job["steps"]
    if job.get("load"):
        found = agree_on_newest_good(Path(job["load"]), world.rank, world.world_size)
        load_into(engine, found)
        assert found.manifest.step == first
    evaluated = evaluations(job, config, grid, engine, first)
    read = batches_of(job, config, grid)
    forwards_before = num_block_forwards()
    begun = []
    results = [engine.train_batch(read(step), rate, begun.append) for step in range(first, last)]
    block_forwards = num_block_forwards() - forwards_before
    if job.get("save"):
        tokens, whole_world = last * GLOBAL_BATCH * LENGTH, {"world_size": world.world_size}
        progress = Progress(last, tokens, dump_config(config), "test", whole_world, {})
        save_checkpoint(Path(job["save"]), engine, progress, tokenizer=b"any will do", keep_last=3)
    replicas = replicas_before_and_after_a_flip(engine) if job.get("flip") else None
    return {
        "replicas": replicas,
        "losses": [result.loss for result in results],
        "norms": [result.gradient_norm for result in results],
        "skipped": [result.skipped for result in results],
        "diverged": [has_diverged(result, config.train.precision) for result in results],
        "block_forwards": block_forwards,
        "micro_batches_begun": begun,
        "micro_batches_read": [len(read(step)) for step in range(first, last)],
        # In a pipeline all batches must have positions or none.
        "held_out": None if evaluated else engine.evaluate(micro_batches(10_000, grid)),
        "scalars": engine.scalars(),
        **evaluated,
    }


def main():
    jobs = json.loads(Path(sys.argv[1]).read_text())
    world = World.from_environment()
    with process_group(world, timeout_seconds=60):
        join_deepspeed()
        results = {name: run_job(job, world) for name, job in jobs.items()}
        if world.rank == 0:
            print(json.dumps(results))


if __name__ == "__main__":
    main()
