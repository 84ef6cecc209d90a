"""A tokenizer, a model that knows one text by heart, and a run directory that holds both."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from data_pipeline.config import TokenizerTrainingConfig
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer_training import train_tokenizer
from llama_dist.checkpoint.manifest import Progress
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.config import OptimizerConfig, RunDirectory, dump_config, parse_run_config
from llama_dist.model import Llama, initialize_weights, next_token_loss
from llama_dist.optim import build_adamw
from llama_dist.parallel.engine import StatePartition

TEXT = "def add(first, second):\n    return first + second  # größer\n"
RUN = {
    "name": "tiny",
    "model": {
        "vocabulary_size": 320,  # more rows than the tokenizer has tokens
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_size": 64,
        "max_sequence_length_tokens": 80,
        "attention": "grouped_query",
        "num_kv_heads": 2,
        "tie_embeddings": True,
    },
    "data": {"sources": [{"path": "data/one"}], "sequence_length_tokens": 64},
    "batch": {"global_batch_sequences": 1},
    "train": {"num_steps": 150},
}


@dataclass(frozen=True)
class LearnedRun:
    """A run directory whose newest checkpoint continues `text` by heart."""

    directory: RunDirectory
    model: Llama
    tokenizer: Tokenizer
    text: str


class WholeModelEngine:
    """The part of an engine that saving asks for: one process that holds every parameter whole."""

    def __init__(self, model: Llama) -> None:
        self._model = model

    def partitions(self) -> Iterator[StatePartition]:
        for name, parameter in self._model.named_parameters():
            flat = parameter.detach().flatten()
            states = {"fp32": flat, "exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}
            yield StatePartition(name, tuple(parameter.shape), 0, states)


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory: pytest.TempPathFactory) -> LearnedRun:
    """Train a tokenizer and a model on one text until it is known by heart; save two checkpoints."""
    root = tmp_path_factory.mktemp("generation")
    (root / "corpus.txt").write_text(TEXT, encoding="utf-8")
    trained = train_tokenizer([root / "corpus.txt"], root / "tokenizer", TokenizerTrainingConfig(vocabulary_size=300))
    run = parse_run_config(RUN, where="test")
    model = Llama(run.model)
    initialize_weights(model.named_parameters(), run.model, seed=0)
    directory = RunDirectory(root / "runs" / "tiny")
    writer = CheckpointWriter(directory.checkpoints, SaveGroup.alone(), lambda *_: [], is_asynchronous=True)
    for step in (1, 150):
        if step > 1:
            learn(model, [*trained.tokenizer.encode(TEXT), trained.tokenizer.eos_id], step)
        progress = Progress(step, step * 64, dump_config(run), "test", {"world_size": 1}, {})
        writer.begin(WholeModelEngine(model), Contents(progress, {}, trained.tokenizer.path.read_bytes()))
        writer.wait()
    return LearnedRun(directory, model, trained.tokenizer, TEXT)


def learn(model: Llama, ids: list[int], num_steps: int) -> None:
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other far longer than these products take
    tokens = torch.tensor([ids])
    optimizer = build_adamw(model.named_parameters(), OptimizerConfig(learning_rate=1e-2, weight_decay=0.0))
    for _ in range(num_steps):
        loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1, "the text must be known by heart, or greedy decoding proves nothing"
