"""`llama-dist data prepare`: text in, a dataset out. Heavy imports wait until a verb runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.cli.options import (
    AsJson,
    Directory,
    Excludes,
    Globs,
    Inputs,
    InvalidUtf8,
    TextField,
    TextUnit,
    answer,
    reading_values,
    transform_values,
)

if TYPE_CHECKING:
    from data_pipeline.manifest import Manifest
    from data_pipeline.preparation.prepare import Prepared


def register(app: typer.Typer) -> None:
    """Mount the verbs on `app`."""
    app.command(
        "prepare",
        epilog="Example: llama-dist data prepare src/ --tokenizer tok/tokenizer.model -o datasets/code",
    )(prepare_verb)
    app.command("finalize", epilog="Example: llama-dist data finalize datasets/code")(finalize_verb)


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
    transforms: Annotated[
        Path | None, typer.Option(help="YAML file of what is done to the text: `transforms`, `augmentation`.")
    ] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share of the documents held out, by hash.")] = 0.01,
    bos: Annotated[bool, typer.Option("--bos/--no-bos", help="Start each document with the tokenizer's BOS.")] = False,
    eos: Annotated[bool, typer.Option("--eos/--no-eos", help="End each document with the tokenizer's EOS.")] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one per processor. Never changes the result.")
    ] = None,
    task_megabytes: Annotated[
        float | None, typer.Option(min=0.001, help="Input of one task; by default a 64th of all, within 4 and 512 MiB.")
    ] = None,
    worker_index: Annotated[int, typer.Option(min=0, help="Which of --num-workers machines this one is, from 0.")] = 0,
    num_workers: Annotated[
        int, typer.Option(min=1, help="Machines that share the work, each with its own --worker-index, on one path.")
    ] = 1,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what another preparation left unfinished in the directory.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tokenize text into a dataset of Arrow shards, with a held-out split. Started again, it goes on where it ended."""
    from data_pipeline.config import PreparationConfig, parse_config
    from data_pipeline.preparation.prepare import default_num_workers, prepare_dataset
    from data_pipeline.preparation.work_directory import Share
    from data_pipeline.transforms.transforms_file import read_transforms_file

    values = {
        "reading": reading_values(globs, excludes, text_field, text_unit, invalid_utf8),
        "validation_fraction": validation_fraction,
        "adds_bos": bos,
        "adds_eos": eos,
    }
    if transforms is not None:
        values |= dict(read_transforms_file(transforms))
    if task_megabytes is not None:
        values["task_bytes"] = int(task_megabytes * 1e6)
    config = parse_config(PreparationConfig, values, where="llama-dist data prepare")
    prepared = prepare_dataset(
        inputs,
        tokenizer,
        output,
        config,
        num_workers=workers or default_num_workers(),
        share=Share(worker_index, num_workers),
        restart=restart,
    )
    _tell(output, prepared, as_json)


def finalize_verb(directory: Directory, as_json: AsJson = False) -> None:
    """Write the manifest of a preparation whose tasks are all done, or say which are missing."""
    from data_pipeline.preparation.finish import finalize

    answer(_summary(directory, finalize(directory), as_json), as_json)


def _tell(output: Path, prepared: "Prepared", as_json: bool) -> None:
    from data_pipeline.progress import print_note

    if prepared.was_there:
        print_note(f"{output}: complete already, prepared in the same way: nothing to do")
    if prepared.finished is None:
        print_note(f"{output}: this worker is done; {prepared.waits_for}; the last to end writes the manifest")
        answer({"path": str(output), "complete": False, "waits_for": prepared.waits_for}, as_json)
        return
    answer(_summary(output, prepared.finished, as_json) | {"already_complete": prepared.was_there}, as_json)


def _summary(output: Path, manifest: "Manifest", as_json: bool) -> dict[str, Any]:
    summary: dict[str, Any] = {"path": str(output), "complete": True}
    for split, shards in (("train", manifest.train), ("validation", manifest.validation)):
        summary[f"{split}_documents"] = sum(shard.num_documents for shard in shards)
        summary[f"{split}_tokens"] = sum(shard.num_tokens for shard in shards)
    summary |= {
        "text_bytes": sum(shard.num_text_bytes for shard in manifest.all_shards()),
        "shards": len(manifest.train) + len(manifest.validation),
        "skipped_empty": manifest.num_skipped_empty,
        "skipped_invalid_utf8": manifest.num_skipped_invalid_utf8,
        "fingerprint": manifest.fingerprint,
    }
    return summary | transform_values(manifest.transforms, as_json)
