"""The verbs `llama-dist tokenizer ...` and `llama-dist data ...`: options in, one answer out.

Answers go to stdout, as text or with `--json`; progress goes to stderr. Does no work of its own, and imports what
does it only when a verb runs.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

tokenizer_app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, or look into one.")
data_app = typer.Typer(no_args_is_help=True, help="Turn text into token shards, check them, look into them.")

Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Files (.jsonl, .json, .parquet, .arrow, text; also .gz), folders of them, or a saved dataset.",
    ),
]
Globs = Annotated[
    list[str], typer.Option("--glob", help="Files taken from a folder, as '**/*.py'. May be given several times.")
]
Excludes = Annotated[
    list[str],
    typer.Option("--exclude", help="Files of a folder left out, as '*/tests/*'; * also matches /. May be repeated."),
]
TextField = Annotated[str, typer.Option(help="JSON field, or table column, that holds the text.")]
TextUnit = Annotated[str, typer.Option(help="What a document of a text file is: `file` or `line`.")]
InvalidUtf8 = Annotated[str, typer.Option(help="At a document that is not UTF-8: `error`, or `skip` and count.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a prepared dataset.")]


@tokenizer_app.command(
    "train", epilog="Example: llama-dist tokenizer train corpus.jsonl --vocabulary-size 32000 -o tok"
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a SentencePiece BPE tokenizer that gives every text back unchanged."""
    from data_pipeline.config import TokenizerTrainingConfig, parse_config
    from data_pipeline.tokenizer_training import train_tokenizer

    values = {
        "vocabulary_size": vocabulary_size,
        "reading": _reading_values(globs, excludes, text_field, text_unit, invalid_utf8),
        "sample_bytes": int(sample_megabytes * 1e6),
        "character_coverage": character_coverage,
    }
    config = parse_config(TokenizerTrainingConfig, values, where="llama-dist tokenizer train")
    trained = train_tokenizer(inputs, output, config, overwrite=overwrite)
    _answer(
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


@tokenizer_app.command("inspect", epilog="Example: llama-dist tokenizer inspect tok/tokenizer.model --text 'x = 1'")
def inspect_tokenizer_verb(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A tokenizer.model file.")],
    text: Annotated[str, typer.Option(help="Text to encode, and to decode again.")] = "def f(x):\n\treturn  x + 12\n",
    as_json: AsJson = False,
) -> None:
    """Show the ids of a tokenizer, and what it makes of a text."""
    from data_pipeline.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode(text)
    _answer(
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


@data_app.command(
    "prepare",
    epilog="Example: llama-dist data prepare src/ --glob '**/*.py' --tokenizer tok/tokenizer.model -o datasets/code",
)
def prepare_verb(
    inputs: Inputs,
    *,
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer.model file; it is copied into the dataset.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of the dataset, of its own.")],
    globs: Globs = ["**/*"],  # noqa: B006
    excludes: Excludes = [],  # noqa: B006
    text_field: TextField = "text",
    text_unit: TextUnit = "file",
    invalid_utf8: InvalidUtf8 = "error",
    validation_fraction: Annotated[float, typer.Option(help="Share of the documents held out, by hash.")] = 0.01,
    bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Start each document with the tokenizer's BOS.")] = False,
    eos: Annotated[bool, typer.Option("--eos/--no-eos", help="End each document with the tokenizer's EOS.")] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one per processor. Never changes the result.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tokenize text into a dataset of Arrow shards, with a held-out split. Nothing is fetched from a network."""
    from data_pipeline.config import PreparationConfig, parse_config
    from data_pipeline.preparation import default_num_workers, prepare_dataset
    from data_pipeline.progress import print_note

    values = {
        "reading": _reading_values(globs, excludes, text_field, text_unit, invalid_utf8),
        "validation_fraction": validation_fraction,
        "adds_bos": bos,
        "adds_eos": eos,
    }
    config = parse_config(PreparationConfig, values, where="llama-dist data prepare")
    prepared = prepare_dataset(inputs, tokenizer, output, config, num_workers=workers or default_num_workers())
    if prepared.was_there:
        print_note(f"{output}: complete already, prepared in the same way: nothing to do")
    manifest = prepared.manifest
    answer: dict[str, Any] = {"path": str(output), "already_complete": prepared.was_there}
    for split, shards in (("train", manifest.train), ("validation", manifest.validation)):
        answer[f"{split}_documents"] = sum(shard.num_documents for shard in shards)
        answer[f"{split}_tokens"] = sum(shard.num_tokens for shard in shards)
    answer |= {
        "text_bytes": sum(shard.num_text_bytes for shard in manifest.train + manifest.validation),
        "shards": len(manifest.train) + len(manifest.validation),
        "skipped_empty": manifest.num_skipped_empty,
        "skipped_invalid_utf8": manifest.num_skipped_invalid_utf8,
        "fingerprint": manifest.fingerprint,
    }
    _answer(answer, as_json)


@data_app.command("verify", epilog="Example: llama-dist data verify datasets/code")
def verify_verb(directory: Directory, as_json: AsJson = False) -> None:
    """Read every byte of a dataset and compare it with its manifest."""
    from data_pipeline.verification import verify_dataset

    verified = verify_dataset(directory)
    _answer(
        {
            "path": str(directory),
            "whole": True,
            "shards": verified.num_shards,
            "documents": verified.num_documents,
            "tokens": verified.num_tokens,
            "bytes": verified.num_bytes,
            "fingerprint": verified.fingerprint,
        },
        as_json,
    )


@data_app.command("inspect", epilog="Example: llama-dist data inspect datasets/code --split validation")
def inspect_data_verb(
    directory: Directory,
    split: Annotated[str, typer.Option(help="`train` or `validation`.")] = "train",
    samples: Annotated[int, typer.Option(min=0, help="Number of documents whose start is shown.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Show what a split holds: counts, the entropy of its tokens, the starts of some documents."""
    from dataclasses import asdict

    from data_pipeline.inspection import inspect_split

    if split not in ("train", "validation"):
        raise typer.BadParameter(f"{split!r}: use `train` or `validation`", param_hint="--split")
    summary = asdict(inspect_split(directory, "train" if split == "train" else "validation", num_samples=samples))
    _answer({name.removeprefix("num_"): value for name, value in summary.items()}, as_json)


def _reading_values(
    globs: list[str], excludes: list[str], text_field: str, text_unit: str, invalid_utf8: str
) -> dict[str, Any]:
    return {
        "globs": list(globs),
        "excludes": list(excludes),
        "text_field": text_field,
        "text_unit": text_unit,
        "invalid_utf8": invalid_utf8,
    }


def _answer(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        typer.echo(f"{name:<{width}}  {shown!r}" if isinstance(value, list) else f"{name:<{width}}  {shown}")
