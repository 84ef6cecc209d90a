"""Three million tokens from a web server that fails a tenth of its requests: the local run's losses, bit for bit."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from flaky_store import FlakyStore

from data_pipeline.config import DataConfig, PreparationConfig, TokenizerTrainingConfig
from data_pipeline.durable_file import checksum_bytes
from data_pipeline.manifest import read_manifest
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.stores.cache_layout import list_files
from data_pipeline.stream import open_stream
from data_pipeline.tokenizer_training import train_tokenizer
from llama_dist.config import RunDirectory
from llama_dist.metrics.spool import effective_steps, read_spool, spool_path

LENGTH = 256
NUM_STEPS, GLOBAL_BATCH = 60, 200
NUM_TOKENS = NUM_STEPS * GLOBAL_BATCH * LENGTH
VOCABULARY = 512
SMALL = PreparationConfig(
    validation_fraction=0.02, tokens_per_record_batch=10_000, shard_bytes=80_000, task_bytes=250_000
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """At least three million tokens in many shards, of the standard library's own sources."""
    directory = tmp_path_factory.mktemp("remote")
    library = Path(sysconfig.get_paths()["stdlib"])
    text, num_bytes = directory / "text.jsonl", 0
    with text.open("w") as file:
        for path in sorted(library.rglob("*.py")):
            if num_bytes < 8_500_000 and not {"site-packages", "test", "lib2to3"} & set(path.parts):
                source = path.read_bytes().decode(errors="ignore")
                file.write(json.dumps({"text": source}) + "\n")
                num_bytes += len(source)
    tokenizer = train_tokenizer(
        [text], directory / "tokenizer.model", TokenizerTrainingConfig(vocabulary_size=VOCABULARY)
    )
    prepare_dataset([text], tokenizer.tokenizer.path, directory / "data", SMALL, num_workers=2)
    return directory / "data"


def shard_bytes(dataset: Path) -> int:
    return sum(shard.num_bytes for shard in read_manifest(dataset).train)


def data_values(dataset: Path, url: str | None = None, cache: Path | None = None) -> dict:
    """The local source, or the same one behind `url` through a cache of a quarter of its bytes."""
    num_bytes = shard_bytes(dataset)
    values = {
        "sources": [{"path": url or str(dataset)}],
        "sequence_length_tokens": LENGTH,
        "shuffle_window_bytes": num_bytes // 8,
    }
    return values | ({"cache": {"directory": str(cache), "max_bytes": num_bytes // 4}} if url else {})


def test_three_million_tokens_are_the_local_ones(dataset, tmp_path):
    local = open_stream(DataConfig.model_validate(data_values(dataset)))
    cache = tmp_path / "cache"
    with FlakyStore(dataset, share=0.1, seed=7) as server:
        remote = open_stream(DataConfig.model_validate(data_values(dataset, server.url, cache)))
        for start in range(0, NUM_TOKENS // LENGTH, GLOBAL_BATCH):
            numbers = np.arange(start, start + GLOBAL_BATCH)
            first, second = (stream.read(numbers) for stream in (local, remote))
            assert checksum_bytes(first.tokens.tobytes()) == checksum_bytes(second.tokens.tobytes())
            assert checksum_bytes(first.labels.tobytes()) == checksum_bytes(second.labels.tobytes())
            assert sum(file.num_bytes for file in list_files(cache)) < 1.05 * shard_bytes(dataset) / 4
        num_failed = sum(fault is not None for *_, fault in server.requests)
        assert num_failed > 0.03 * len(server.requests)


@pytest.mark.parametrize("num_steps", [12, pytest.param(NUM_STEPS, marks=pytest.mark.long)])
def test_a_run_on_a_failing_server_has_the_losses_of_the_local_run(dataset, tmp_path, llama_dist, num_steps):
    import yaml

    def losses(name: str, data: dict) -> list[float]:
        values = {
            "name": name,
            "runs_directory": str(tmp_path / "runs"),
            "model": {
                "vocabulary_size": VOCABULARY, "hidden_size": 16, "num_layers": 1, "num_heads": 1,
                "feed_forward_size": 32, "max_sequence_length_tokens": LENGTH,
            },
            "data": data,
            "batch": {"global_batch_sequences": GLOBAL_BATCH, "micro_batch_sequences": 10},
            "train": {"num_steps": num_steps, "precision": "fp32"},
            "evaluation": {"interval_steps": num_steps // 2, "num_sequences": 40},
            "metrics": {"mlflow": False},
        }  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        launched = llama_dist("launch", path, "--set", "cluster.num_processes_per_node=2")
        assert launched.returncode == 0, launched.stdout + launched.stderr
        steps = effective_steps(read_spool(spool_path(RunDirectory(tmp_path / "runs" / name).metrics)))
        return [step.metrics.loss for step in steps]

    local = losses("local", data_values(dataset))
    with FlakyStore(dataset, share=0.1, seed=11) as server:
        remote = losses("remote", data_values(dataset, server.url, tmp_path / "cache"))
        assert any(fault for *_, fault in server.requests)
    assert len(local) == num_steps
    assert remote == local
