"""`llama-dist data pack | show`: prepare what the stream reads, and say what it gave. Heavy imports wait for a verb."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.cli.options import AsJson, Directory, answer

if TYPE_CHECKING:
    from data_pipeline.step_documents import ShownSample


def register(app: typer.Typer) -> None:
    """Mount the verbs on `app`."""
    app.command("pack", epilog="Example: llama-dist data pack datasets/code --sequence-length 2048")(pack_verb)
    app.command("show", epilog="Example: llama-dist data show configs/run/tiny.yaml --step 3 --rank 1 --dp-size 2")(
        show_verb
    )


def pack_verb(
    directory: Directory,
    *,
    sequence_length: Annotated[int, typer.Option(min=8, help="Tokens of a sequence: data.sequence_length_tokens.")],
    as_json: AsJson = False,
) -> None:
    """Pack whole documents into sequences, for `data.packing: best_fit`. Writes an index, moves no token."""
    from data_pipeline.manifest import SPLITS
    from data_pipeline.packing.pack_dataset import pack_split

    summary: dict[str, Any] = {"path": str(directory), "sequence_length": sequence_length}
    for split in SPLITS:
        packed = pack_split(directory, split, sequence_length)
        record = packed.record
        num_places = record.num_packs * sequence_length
        summary |= {
            f"{split}_already_packed": packed.was_there,
            f"{split}_sequences": record.num_packs,
            f"{split}_padding_tokens": record.num_padding_tokens,
            f"{split}_padding_share": round(record.num_padding_tokens / num_places, 7) if num_places else 0.0,
            f"{split}_documents": record.num_documents,
            f"{split}_cut_documents": record.num_cut_documents,
        }
    answer(summary, as_json)


def show_verb(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="Run file, or a run's directory.")],
    *,
    step: Annotated[int, typer.Option(min=1, help="Optimizer step, counted from 1.")],
    rank: Annotated[int | None, typer.Option(min=0, help="Only the rows of this data-parallel rank.")] = None,
    dp_size: Annotated[int, typer.Option(min=1, help="Number of data-parallel ranks, for --rank.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show the documents behind a step: where each lies, and how it begins."""
    import json
    from dataclasses import asdict

    from data_pipeline.step_documents import Replica, show_step

    samples = show_step(run, step, replica=None if rank is None else Replica(rank, dp_size))
    if as_json:
        typer.echo(json.dumps({"step": step, "samples": [asdict(sample) for sample in samples]}, ensure_ascii=False))
        return
    for sample in samples:
        for line in _lines(sample):
            typer.echo(line)


def _lines(sample: "ShownSample") -> list[str]:
    lines = [f"sample {sample.sample}  {sample.source}  epoch {sample.epoch}  sequence {sample.sequence}"]
    for part in sample.parts:
        tokens = f"{part.first_token}..{part.end_token} of {part.document_tokens}"
        lines.append(f"  {part.doc_id}  tokens {tokens}  {part.shard}  {part.text!r}")
    return lines
