"""`llama-dist data verify | inspect`: look into a prepared dataset. Heavy imports wait until a verb runs."""

from typing import Annotated

import typer

from data_pipeline.cli.options import AsJson, Directory, answer, transform_values


def register(app: typer.Typer) -> None:
    """Mount the verbs on `app`."""
    app.command(
        "verify",
        epilog="Example: llama-dist data verify datasets/code",
    )(verify_verb)
    app.command("inspect", epilog="Example: llama-dist data inspect datasets/code --split validation")(
        inspect_data_verb
    )


def verify_verb(directory: Directory, as_json: AsJson = False) -> None:
    """Read every byte of a dataset and compare it with its manifest."""
    from data_pipeline.verification import verify_dataset

    verified = verify_dataset(directory)
    answer(
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


def inspect_data_verb(
    directory: Directory,
    split: Annotated[str, typer.Option(help="`train` or `validation`.")] = "train",
    samples: Annotated[int, typer.Option(min=0, help="Number of documents whose start is shown.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Show what a split holds: counts, the entropy of its tokens, the starts of some documents."""
    from dataclasses import asdict

    from data_pipeline.inspection import inspect_split
    from data_pipeline.manifest import read_manifest

    if split not in ("train", "validation"):
        raise typer.BadParameter(f"{split!r}: use `train` or `validation`", param_hint="--split")
    summary = asdict(inspect_split(directory, "train" if split == "train" else "validation", num_samples=samples))
    values = {name.removeprefix("num_"): value for name, value in summary.items()}
    answer(values | transform_values(read_manifest(directory).transforms, as_json), as_json)
