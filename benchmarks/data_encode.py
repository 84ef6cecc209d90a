"""Prints how fast text becomes token ids on one core, and verified shards on two, beside SentencePiece, in turns.

SentencePiece has the same tokenizer file, and its ids are compared with ours, document by document. tiktoken is there
for information: it cuts text otherwise, so its ids are others. Ours starts with an empty word cache at every turn.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring.turns import median, print_machine, print_table, run_beside_peers, shown, take_turns

NUM_ROUNDS = 3
TEXT_BYTES = 50_000_000
# As a preparation hands texts over.
CALL_CHARACTERS = 1_000_000
# tiktoken's own cl100k pattern, which it would fetch from a network.
TIKTOKEN_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def main() -> None:
    """Time one core, compare the ids, then time two cores."""
    run_beside_peers()
    from measuring.corpus import texts, tokenizer_file  # noqa: PLC0415

    print_machine()
    documents = [text for text in texts(TEXT_BYTES) if "▁" not in text]
    num_bytes = sum(len(text.encode()) for text in documents)
    print(f"{num_bytes / 1e6:.1f} MB of Python source in {len(documents):,} documents, BPE with 32,000 pieces\n")
    tokenizer = tokenizer_file()
    one_core(documents, num_bytes, tokenizer)
    two_cores(documents, num_bytes, tokenizer)


def one_core(documents: list[str], num_bytes: int, tokenizer: Path) -> None:
    """Print the table of processor seconds, which the machine's other work changes least."""
    processor = sentencepiece(tokenizer)
    tiktoken = tiktoken_of(processor)
    ids: dict[str, Any] = {}
    competitors: dict[str, Callable[[], Any]] = {
        "ours": lambda: ids.update(ours=encode_ours(documents, tokenizer)),
        "SentencePiece": lambda: ids.update(theirs=processor.encode(documents, num_threads=1)),
        "tiktoken (other ids)": lambda: tiktoken.encode_ordinary_batch(documents, num_threads=1),
    }
    times = timed(competitors, time.process_time)
    differing = sum(not np.array_equal(*pair) for pair in zip(ids["ours"], ids["theirs"], strict=True))
    print(f"ids: {differing} of {len(documents):,} documents differ from SentencePiece's\n", flush=True)
    assert differing == 0
    print_speeds("one core", times, num_bytes)
    print_ratio("one core", times["ours"], times["SentencePiece"], 1.8)


def two_cores(documents: list[str], num_bytes: int, tokenizer: Path) -> None:
    """Print the table of wall seconds: ours from a file to verified shards, SentencePiece from memory to ids."""
    import json  # noqa: PLC0415

    from measuring.corpus import FOLDER  # noqa: PLC0415

    processor = sentencepiece(tokenizer)
    with tempfile.TemporaryDirectory(prefix="encode-", dir=FOLDER) as folder:
        corpus = Path(folder) / "corpus.jsonl"
        with corpus.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
        ours = "ours, to verified shards"
        competitors: dict[str, Callable[[], Any]] = {
            ours: lambda: prepare_and_verify(corpus, tokenizer, Path(folder) / "dataset"),
            "SentencePiece, to ids": lambda: processor.encode(documents, num_threads=2),
        }
        times = timed(competitors, time.perf_counter)
    print_speeds("two cores", times, num_bytes)
    print_ratio("two cores", times[ours], times["SentencePiece, to ids"], 1.4)


def prepare_and_verify(corpus: Path, tokenizer: Path, output: Path) -> None:
    """Read, tokenize, write and verify a dataset as the two verbs do, then remove it."""
    from data_pipeline.config import PreparationConfig  # noqa: PLC0415
    from data_pipeline.preparation.prepare import prepare_dataset  # noqa: PLC0415
    from data_pipeline.verification import verify_dataset  # noqa: PLC0415

    prepare_dataset([corpus], tokenizer, output, PreparationConfig(), num_workers=2)
    assert verify_dataset(output).num_tokens
    shutil.rmtree(output)


def encode_ours(documents: list[str], tokenizer: Path) -> list[Any]:
    """Encode through a new tokenizer, in groups of a megabyte."""
    from data_pipeline.tokenizer import Tokenizer  # noqa: PLC0415

    fresh = Tokenizer.load(tokenizer)
    encoded, group, num_characters = [], [], 0
    for document in documents:
        group.append(document)
        num_characters += len(document)
        if num_characters >= CALL_CHARACTERS:
            encoded += fresh.encode_batch(group)
            group, num_characters = [], 0
    return encoded + fresh.encode_batch(group)


def sentencepiece(tokenizer: Path) -> Any:
    """Return SentencePiece's own processor."""
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415

    return SentencePieceProcessor(model_file=str(tokenizer))


def tiktoken_of(processor: Any) -> Any:
    """Return a tiktoken encoding with the same pieces, in the same order of merging."""
    import tiktoken  # noqa: PLC0415

    ranks = {bytes([byte]): byte for byte in range(256)}
    for number in range(processor.get_piece_size()):
        if not (processor.is_control(number) or processor.is_byte(number) or processor.is_unknown(number)):
            ranks.setdefault(processor.id_to_piece(number).replace("▁", " ").encode(), len(ranks))
    return tiktoken.Encoding("same", pat_str=TIKTOKEN_PATTERN, mergeable_ranks=ranks, special_tokens={})


def timed(competitors: dict[str, Callable[[], Any]], clock: Callable[[], float]) -> dict[str, float | None]:
    """Median seconds of each, by turns."""

    def turn(work: Callable[[], Any]) -> float:
        started = clock()
        work()
        return clock() - started

    turns = {name: lambda work=work: turn(work) for name, work in competitors.items()}
    return {name: median(values) for name, values in take_turns(turns, num_rounds=NUM_ROUNDS).items()}


def print_speeds(title: str, seconds: dict[str, float | None], num_bytes: int) -> None:
    """Print one row a competitor."""
    rows = [[name, shown(time), shown(num_bytes / time / 1e6 if time else None)] for name, time in seconds.items()]
    print_table([title, "seconds", "MB/s"], rows)


def print_ratio(title: str, ours: float | None, theirs: float | None, target: float) -> None:
    """Print how many times as fast ours is."""
    assert ours and theirs
    print(f"{title}: {theirs / ours:.2f} x SentencePiece (target {target})\n", flush=True)


if __name__ == "__main__":
    main()
