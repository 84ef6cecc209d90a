"""The text of the data benchmarks: Python's own and installed sources, in a fixed order; made once under build/."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.config import PreparationConfig, TokenizerTrainingConfig
from data_pipeline.preparation.prepare import prepare_dataset
from data_pipeline.tokenizer_training import train_tokenizer
from measuring.turns import ROOT

MOST_BYTES = 80_000_000
# Named by the size, so that what another size left is not taken for this one's.
FOLDER = ROOT / "build" / "benchmarks" / f"{MOST_BYTES // 1_000_000}MB"
VOCABULARY_SIZE = 32_000
# Learning from more than this takes minutes and changes the speed of encoding little.
_SAMPLE_BYTES = 12_000_000


def corpus_file() -> Path:
    """Return a file of JSON lines, one source file a document."""
    path = FOLDER / "corpus.jsonl"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".writing")
        with temporary.open("w", encoding="utf-8") as file:
            for text in _source_texts():
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        temporary.replace(path)
    return path


def texts(most_bytes: int = MOST_BYTES) -> list[str]:
    """Return the documents, from the first on, up to a size."""
    chosen, num_bytes = [], 0
    with corpus_file().open(encoding="utf-8") as file:
        for line in file:
            chosen.append(json.loads(line)["text"])
            num_bytes += len(chosen[-1].encode())
            if num_bytes >= most_bytes:
                break
    return chosen


def tokenizer_file() -> Path:
    """Return a 32k BPE tokenizer trained on the corpus."""
    path = FOLDER / "tokenizer.model"
    if not path.exists():
        config = TokenizerTrainingConfig(vocabulary_size=VOCABULARY_SIZE, sample_bytes=_SAMPLE_BYTES)
        train_tokenizer([corpus_file()], path, config)
    return path


def dataset_directory() -> Path:
    """Return the corpus prepared as a dataset of ours."""
    path = FOLDER / "dataset"
    prepare_dataset(
        [corpus_file()], tokenizer_file(), path, PreparationConfig(validation_fraction=0.001), num_workers=2
    )
    return path


def _source_texts() -> Iterator[str]:
    num_bytes = 0
    for folder in (Path(sysconfig.get_paths()["stdlib"]), Path(sysconfig.get_paths()["purelib"])):
        for path in sorted(folder.rglob("*.py")):
            if "site-packages" in path.parts and "site-packages" not in folder.parts:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if text:
                num_bytes += len(text.encode())
                yield text
            if num_bytes >= MOST_BYTES:
                return
