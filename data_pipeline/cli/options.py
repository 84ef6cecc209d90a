"""Options that several verbs share, and the one way in which verbs answer."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

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


def answer(values: dict[str, Any], as_json: bool) -> None:
    """Print one answer: a JSON object for scripts, or aligned lines."""
    if as_json:
        typer.echo(json.dumps(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        typer.echo(f"{name:<{width}}  {shown!r}" if isinstance(value, list) else f"{name:<{width}}  {shown}")
