"""`llama-dist data show`: the documents behind one optimizer step of a run. Changes nothing, trains nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.config import BatchConfig
from data_pipeline.errors import DataError
from data_pipeline.run_file import read_run_sections
from data_pipeline.stream import TokenStream, open_stream
from data_pipeline.tokenizer import Tokenizer

Int64 = npt.NDArray[np.int64]

# A token is at most a few characters: these are enough for the start that is shown.
_MOST_DECODED_TOKENS = 64


@dataclass(frozen=True)
class ShownPart:
    """A document, or a part of one, inside a sample."""

    doc_id: str
    shard: str
    first_token: int
    """Place of the part's first token in its document."""

    end_token: int
    """Place after its last token."""

    document_tokens: int
    text: str
    """How the part begins."""


@dataclass(frozen=True)
class ShownSample:
    """One row of a batch."""

    sample: int
    """Its number; `data.skip_samples` counts in these."""

    source: str
    epoch: int
    sequence: int
    parts: list[ShownPart]


@dataclass(frozen=True)
class Replica:
    """One data-parallel rank."""

    dp_rank: int
    dp_size: int


def show_step(run: Path, step: int, *, replica: Replica | None = None, text_characters: int = 60) -> list[ShownSample]:
    """Return the samples of optimizer step `step`, counted from 1, of the run file or run directory `run`.

    With a `replica`, only the rows that it reads. Raises ConfigError or DataError for what does not fit.
    """
    sections = read_run_sections(run)
    positions = step_positions(sections.batch, step, replica)
    stream = open_stream(sections.data)
    tokenizer = Tokenizer.load(stream.tokenizer_path)
    numbers = stream.sample_numbers(positions)
    return [
        _show_sample(stream, tokenizer, int(position), int(number), text_characters)
        for position, number in zip(positions, numbers, strict=True)
    ]


def step_positions(batch: BatchConfig, step: int, replica: Replica | None) -> Int64:
    """Return the positions of step `step` in the order of the run, int64 [rows]: all of them, or one replica's."""
    size = batch.global_batch_sequences
    positions = np.arange((step - 1) * size, step * size, dtype=np.int64)
    if replica is None:
        return positions
    if not 0 <= replica.dp_rank < replica.dp_size:
        raise DataError(f"rank {replica.dp_rank} of {replica.dp_size} data-parallel ranks: they count from 0")
    rows = batch.micro_batch_sequences
    if size % (rows * replica.dp_size):
        raise DataError(
            f"global_batch_sequences {size} is not a multiple of {rows * replica.dp_size} "
            f"(micro_batch_sequences {rows} x dp {replica.dp_size}): give the run's --dp-size"
        )
    return positions.reshape(-1, replica.dp_size, rows)[:, replica.dp_rank].reshape(-1)


def _show_sample(stream: TokenStream, tokenizer: Tokenizer, position: int, number: int, characters: int) -> ShownSample:
    where = np.array([position], dtype=np.int64)
    located, tokens = stream.locate(where), stream.read(where).tokens[0]
    source, sequence = stream.sources[int(located.sources[0])], int(located.sequences[0])
    parts, column = [], 0
    for part in source.sequences.document_parts(sequence):
        begun = tokens[column : column + min(part.num_tokens, _MOST_DECODED_TOKENS)]
        parts.append(
            ShownPart(
                doc_id=part.document_id,
                shard=part.shard_file,
                first_token=part.first_token,
                end_token=part.first_token + part.num_tokens,
                document_tokens=part.num_document_tokens,
                text=tokenizer.decode(begun.tolist())[:characters],
            )
        )
        column += part.num_tokens
    return ShownSample(number, source.name, int(located.epochs[0]), sequence, parts)
