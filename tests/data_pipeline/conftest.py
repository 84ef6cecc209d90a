"""A small corpus, a tokenizer trained on it, and a dataset of several shards and record batches."""

import shutil
from pathlib import Path

import pytest
from data_corpus import SMALL_PREPARATION, write_corpus

from data_pipeline.config import TokenizerTrainingConfig
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer_training import train_tokenizer


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
