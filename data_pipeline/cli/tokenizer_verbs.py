"""`llama-dist tokenizer ...`: options in, one answer out. Heavy imports wait until a verb runs."""

from pathlib import Path
from typing import Annotated

import typer

from data_pipeline.cli.options import (
    AsJson,
    Excludes,
    Globs,
    Inputs,
    InvalidUtf8,
    TextField,
    TextUnit,
    answer,
    reading_values,
)


def register(app: typer.Typer) -> None:
    """Mount the verbs on `app`."""
    app.command("train", epilog="Example: llama-dist tokenizer train corpus.jsonl --vocabulary-size 32000 -o tok")(
        train_verb
    )
    app.command("inspect", epilog="Example: llama-dist tokenizer inspect tok/tokenizer.model --text 'x = 1'")(
        inspect_tokenizer_verb
    )


def train_verb(
    inputs: Inputs,
    *,
    vocabulary_size: Annotated[int, typer.Option(help="Number of token ids.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .model file, or a directory for tokenizer.model.")],
    globs: Globs = ["**/*"],  # noqa: B006  (typer copies defaults)
    excludes: Excludes = [],  # noqa: B006
    text_field: TextField = "text",
    text_unit: TextUnit = "file",
    invalid_utf8: InvalidUtf8 = "error",
    sample_megabytes: Annotated[float, typer.Option(help="Most text that is learned from, picked by hash.")] = 64.0,
    character_coverage: Annotated[float, typer.Option(help="Share of characters with an id of their own.")] = 0.9995,
    reserve: Annotated[
        list[str], typer.Option(help="Control symbol with an id that no text has, as '<fim_prefix>'. May be repeated.")
    ] = [],  # noqa: B006
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a SentencePiece BPE tokenizer that gives every text back unchanged."""
    from data_pipeline.config import TokenizerTrainingConfig, parse_config
    from data_pipeline.tokenizer_training import train_tokenizer

    values = {
        "vocabulary_size": vocabulary_size,
        "reading": reading_values(globs, excludes, text_field, text_unit, invalid_utf8),
        "sample_bytes": int(sample_megabytes * 1e6),
        "character_coverage": character_coverage,
        "reserved": list(reserve),
    }
    config = parse_config(TokenizerTrainingConfig, values, where="llama-dist tokenizer train")
    trained = train_tokenizer(inputs, output, config, overwrite=overwrite)
    answer(
        {
            "path": str(trained.tokenizer.path),
            "vocabulary_size": trained.tokenizer.vocabulary_size,
            "fingerprint": trained.tokenizer.fingerprint,
            "sampled_bytes": trained.num_sampled_bytes,
            "corpus_bytes": trained.num_corpus_bytes,
            "skipped_invalid_utf8": trained.num_skipped_invalid_utf8,
        },
        as_json,
    )


def inspect_tokenizer_verb(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A tokenizer.model file.")],
    text: Annotated[str, typer.Option(help="Text to encode, and to decode again.")] = "def f(x):\n\treturn  x + 12\n",
    as_json: AsJson = False,
) -> None:
    """Show the ids of a tokenizer, and what it makes of a text."""
    from data_pipeline.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode(text)
    answer(
        {
            "path": str(path),
            "vocabulary_size": tokenizer.vocabulary_size,
            "unk_id": tokenizer.unk_id,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "fingerprint": tokenizer.fingerprint,
            "lossless": tokenizer.is_lossless,
            "text": text,
            "ids": ids,
            "pieces": [tokenizer.decode([token]) for token in ids],
            "round_trip": tokenizer.decode(ids) == text,
        },
        as_json,
    )
