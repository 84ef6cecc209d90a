"""A small corpus, a tokenizer trained on it, and a dataset of several shards and record batches."""

import random
import shutil
from pathlib import Path

import pytest

from data_pipeline.config import PreparationConfig, TokenizerTrainingConfig
from data_pipeline.preparation import prepare_dataset
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer_training import train_tokenizer

_SYMBOLS = ["=", ".", "(", ")", "):", "12", "345", "é", "日本", "#", "return", "def", "self", "  "]

# Small units, so that a few hundred kilobytes make several tasks, shards and record batches.
SMALL_PREPARATION = PreparationConfig(
    validation_fraction=0.15, tokens_per_record_batch=3000, shard_bytes=30_000, task_bytes=60_000
)


def write_corpus(folder: Path, *, num_files: int = 60, seed: int = 0) -> Path:
    """Write source-like text files of many lengths."""
    source = random.Random(seed)
    words = ["".join(random.Random(number).choices("abcdefghilmnoprstu", k=2 + number % 7)) for number in range(300)]
    words += _SYMBOLS * 8
    for number in range(num_files):
        lines = []
        for _ in range(source.randrange(1, 160)):
            indentation = source.choice(["", "    ", "        ", "\t"])
            lines.append(indentation + " ".join(source.choices(words, k=source.randrange(1, 12))))
        path = folder / f"part_{number % 7}" / f"file_{number:03d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("\n".join(lines).encode())
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    output = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer([corpus], output, TokenizerTrainingConfig(vocabulary_size=512)).tokenizer


@pytest.fixture(scope="session")
def built_dataset(corpus: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: tests that change a dataset take `dataset`."""
    output = tmp_path_factory.mktemp("datasets") / "code"
    prepare_dataset([corpus], tokenizer.path, output, SMALL_PREPARATION, num_workers=1)
    return output


@pytest.fixture(scope="session")
def other_dataset(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second, smaller dataset with the same tokenizer. Read only."""
    text = write_corpus(tmp_path_factory.mktemp("other_corpus"), num_files=25, seed=1)
    output = tmp_path_factory.mktemp("datasets") / "other"
    prepare_dataset([text], tokenizer.path, output, SMALL_PREPARATION, num_workers=1)
    return output


@pytest.fixture
def dataset(built_dataset: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built_dataset, tmp_path / "dataset"))
