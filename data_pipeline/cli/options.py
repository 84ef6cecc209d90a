"""Options that several verbs share, and the one way in which verbs answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from data_pipeline.transforms.counts import TransformCount

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Files (.jsonl, .json, .csv, .parquet, .arrow, text; also .gz, .zst), folders or URLs of them, a saved "
        "dataset, or hub://owner/name?config=C&split=S.",
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


def reading_values(
    globs: list[str], excludes: list[str], text_field: str, text_unit: str, invalid_utf8: str
) -> dict[str, Any]:
    """Collect the options of `ReadingConfig`."""
    return {
        "globs": list(globs),
        "excludes": list(excludes),
        "text_field": text_field,
        "text_unit": text_unit,
        "invalid_utf8": invalid_utf8,
    }


def transform_values(counts: "Sequence[TransformCount]", as_json: bool) -> dict[str, Any]:
    """Collect what the transforms of a preparation did: records for scripts, a line each for people."""
    if as_json:
        return {"transforms": [count.model_dump() for count in counts]}
    return {f"{number}_{count.kind}": _in_words(count) for number, count in enumerate(counts, start=1)}


def _in_words(count: "TransformCount") -> str:
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in count.dropped.items())
    return (
        f"{count.num_documents_in:,} to {count.num_documents_out:,} documents, "
        f"{count.num_text_bytes_in:,} to {count.num_text_bytes_out:,} bytes"
        + (f"; dropped: {reasons}" if reasons else "")
    )


def answer(values: dict[str, Any], as_json: bool) -> None:
    """Print one answer: a JSON object for scripts, or aligned lines."""
    if as_json:
        typer.echo(json.dumps(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        typer.echo(f"{name:<{width}}  {shown!r}" if isinstance(value, list) else f"{name:<{width}}  {shown}")
