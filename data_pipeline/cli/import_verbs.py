"""`llama-dist data import megatron | mds`: other programs' datasets in, one of ours out.

Heavy imports wait until a verb runs.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from data_pipeline.cli.options import AsJson, answer

TokenizerFile = Annotated[
    Path, typer.Option("--tokenizer", help="The tokenizer.model that made the ids; it is copied into the dataset.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Directory of the dataset, of its own.")]
ValidationFraction = Annotated[float, typer.Option(min=0, help="Share of the documents held out, by hash.")]
EosOption = Annotated[
    str | None,
    typer.Option(
        "--eos",
        help="Documents end with the tokenizer's EOS (`present`: checked; the default for ids), get it (`add`: the "
        "default for text), or are left as they are (`none`).",
    ),
]


def register(app: typer.Typer) -> None:
    """Mount the group `import` on `app`."""
    import_app = typer.Typer(no_args_is_help=True, help="Bring another program's dataset into ours.")
    import_app.command(
        "megatron",
        epilog="Example: llama-dist data import megatron old/corpus_text_document --tokenizer tok/tokenizer.model "
        "-o datasets/old",
    )(megatron_verb)
    import_app.command(
        "mds",
        epilog="Example: llama-dist data import mds old/mds --column tokens --tokenizer tok/tokenizer.model "
        "-o datasets/old",
    )(mds_verb)
    app.add_typer(import_app, name="import")


def megatron_verb(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="Path without .bin and .idx.")],
    *,
    tokenizer: TokenizerFile,
    output: Output,
    validation_fraction: ValidationFraction = 0.01,
    eos: EosOption = None,
    as_json: AsJson = False,
) -> None:
    """Read a Megatron-LM .bin/.idx pair. Documents are those of its document index."""
    from data_pipeline.interop.megatron_files import MegatronCorpus

    _import(MegatronCorpus(prefix), tokenizer, output, validation_fraction, eos, as_json)


def mds_verb(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory with index.json and .mds files.")],
    *,
    tokenizer: TokenizerFile,
    output: Output,
    column: Annotated[str, typer.Option(help="Column of ids (`ndarray`, `bytes`) or of text (`str`).")] = "tokens",
    bytes_dtype: Annotated[str, typer.Option(help="Type of the ids in a column of raw `bytes`.")] = "int64",
    validation_fraction: ValidationFraction = 0.01,
    eos: EosOption = None,
    as_json: AsJson = False,
) -> None:
    """Read a MosaicML streaming (MDS) dataset, plain or compressed. Each row is a document."""
    from data_pipeline.interop.mds_files import MdsCorpus

    known = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    if bytes_dtype not in known:
        raise typer.BadParameter(f"{bytes_dtype!r}: use one of {', '.join(known)}", param_hint="--bytes-dtype")
    corpus = MdsCorpus(directory, column, bytes_dtype=bytes_dtype)
    _import(corpus, tokenizer, output, validation_fraction, eos, as_json)


def _import(
    corpus: Any, tokenizer: Path, output: Path, validation_fraction: float, eos: str | None, as_json: bool
) -> None:
    from data_pipeline.interop.import_dataset import EndOfSequence, import_dataset
    from data_pipeline.progress import print_note

    policies: dict[str | None, EndOfSequence | None] = {None: None, "present": "present", "add": "add", "none": "none"}
    if eos not in policies:
        raise typer.BadParameter(f"{eos!r}: use `present`, `add` or `none`", param_hint="--eos")
    if validation_fraction >= 1:
        raise typer.BadParameter("needs a share below 1", param_hint="--validation-fraction")
    imported = import_dataset(
        corpus, tokenizer, output, validation_fraction=validation_fraction, end_of_sequence=policies[eos]
    )
    if imported.was_there:
        print_note(f"{output}: complete already, imported in the same way: nothing to do")
    manifest = imported.manifest
    answer(
        {
            "path": str(output),
            "already_complete": imported.was_there,
            "train_documents": sum(shard.num_documents for shard in manifest.train),
            "train_tokens": sum(shard.num_tokens for shard in manifest.train),
            "validation_documents": sum(shard.num_documents for shard in manifest.validation),
            "validation_tokens": sum(shard.num_tokens for shard in manifest.validation),
            "skipped_empty": manifest.num_skipped_empty,
            "shards": len(manifest.train) + len(manifest.validation),
            "fingerprint": manifest.fingerprint,
        },
        as_json,
    )
