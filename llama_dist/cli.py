"""The verbs of `llama-dist` that work on checkpoints: options and printing only. Heavy imports wait for a verb."""

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> typer.Typer:
    """Mount the verbs on the program's `app`; answers the group `checkpoint`, for verbs that need the launcher."""
    app.command("generate")(generate)
    checkpoint_app = typer.Typer(no_args_is_help=True, help="Look at the checkpoints of a run, and check them.")
    checkpoint_app.command("list")(list_checkpoints)
    checkpoint_app.command("verify")(verify_checkpoint)
    checkpoint_app.command("prune")(prune_checkpoints)
    checkpoint_app.command("fetch")(fetch_checkpoint)
    checkpoint_app.command("export")(export_checkpoint)
    checkpoint_app.command("import")(import_checkpoint)
    app.add_typer(checkpoint_app, name="checkpoint")
    return checkpoint_app


def generate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory, or a run: then its newest good one.")],
    *,
    prompt: Annotated[str, typer.Option(help="Text to continue; empty starts a new document.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to generate; EOS ends sooner.")] = 100,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from this many likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens with this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text.")] = 0,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer file; by default the checkpoint's own.")] = None,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Print each token's log probability, in nats.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Continue a text with a checkpoint, whatever topology wrote it.

    Example: llama-dist generate runs/demo --prompt "import " --max-new-tokens 50 --temperature 0 --logprobs
    """
    from llama_dist.generation.command import Request, answer
    from llama_dist.generation.sample import Sampling

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    result = answer(Request(checkpoint, prompt, max_new_tokens, sampling, seed, tokenizer))
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    for line in result.to_lines(logprobs=logprobs):
        typer.echo(line)


def list_checkpoints(
    run: Annotated[Path, typer.Argument(help="Directory of a run, for example runs/tiny.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List a run's checkpoints, oldest first, with the topology that wrote each.

    Reads the manifests alone; `checkpoint verify` reads every byte.

    Example: llama-dist checkpoint list runs/tiny
    """
    from llama_dist.checkpoint.describe import describe_all

    descriptions = describe_all(run)
    if as_json:
        typer.echo(json.dumps([description.to_json() for description in descriptions], indent=2))
        return
    for description in descriptions:
        typer.echo(description.to_line())


def verify_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory, or a run: then each of its checkpoints.")],
) -> None:
    """Read every byte of a checkpoint and compare it with the manifest. Exit code 74 if anything differs.

    Example: llama-dist checkpoint verify runs/tiny
    """
    from llama_dist.checkpoint.describe import verify_all

    for line in verify_all(checkpoint):
        typer.echo(line)


def prune_checkpoints(
    run: Annotated[Path, typer.Argument(help="Directory of a run, for example runs/tiny.")],
    *,
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="In place of the run's own checkpoint.keep_last.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove the checkpoints that the rules of the run do not keep, after reading every byte of the newest good one.

    Example: llama-dist checkpoint prune runs/tiny --keep-last 1 --dry-run
    """
    from llama_dist.checkpoint.pruning import judge, policy_of, prune
    from llama_dist.config import RunDirectory

    directory = RunDirectory(run)
    policy = policy_of(directory)
    verdicts = judge(directory, policy if keep_last is None else policy.model_copy(update={"keep_last": keep_last}))
    if not dry_run:
        prune(directory, verdicts)
    if as_json:
        typer.echo(json.dumps([verdict.to_json() for verdict in verdicts], indent=2))
        return
    for verdict in verdicts:
        typer.echo(verdict.to_line())


def fetch_checkpoint(
    run: Annotated[Path, typer.Argument(help="Directory of a run, for example runs/tiny.")],
    *,
    step: Annotated[int | None, typer.Option(min=0, help="Which one; by default the newest that is whole.")] = None,
    store: Annotated[str | None, typer.Option(metavar="URL", help="In place of the run's checkpoint.upload.")] = None,
    life: Annotated[
        str | None, typer.Option(help="Another life of the run's name: a directory of the store. See checkpoints.md.")
    ] = None,
) -> None:
    """Copy a checkpoint back from the store that `checkpoint.upload` names, verify it, and print where it is.

    Example: llama-dist checkpoint fetch runs/tiny --step 1000
    """
    from llama_dist.checkpoint.fetching import fetch
    from llama_dist.config import RunDirectory

    directory = RunDirectory(run.absolute())
    typer.echo(fetch(directory, step, store, life=life, tell=lambda line: typer.echo(line, err=True)))


def export_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory, or a run: then its newest good one.")],
    output: Annotated[Path, typer.Argument(help="Directory to write; it must not exist.")],
    *,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16; fp32 keeps the weights bit for bit.")] = "fp32",
    max_file_gb: Annotated[float, typer.Option(min=0.001, help="Largest file, in 10^9 bytes.")] = 5.0,
    no_tokenizer: Annotated[bool, typer.Option("--no-tokenizer", help="Write weights and config alone.")] = False,
) -> None:
    """Write a checkpoint as a LLaMA that Hugging Face's transformers loads, whatever topology wrote it.

    Example: llama-dist checkpoint export runs/tiny exported/tiny --precision bf16
    """
    from llama_dist.generation.command import find_checkpoint
    from llama_dist.interop.hf_export import PRECISIONS, Export, export_to_hf

    if precision not in PRECISIONS:
        raise typer.BadParameter(f"{precision!r}: needs {', '.join(PRECISIONS)}", param_hint="--precision")
    wanted = Export(find_checkpoint(checkpoint), output, precision, max_file_gb, not no_tokenizer)
    typer.echo(export_to_hf(wanted))


def import_checkpoint(
    source: Annotated[
        Path, typer.Argument(help="Folder that `save_pretrained` or DeepSpeed's `save_checkpoint` wrote.")
    ],
    run_file: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run that shall begin with these weights.")],
    *,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Overrides one field; may be repeated.")
    ] = None,
    ignore_tokenizer: Annotated[
        bool, typer.Option("--ignore-tokenizer", help="Take the weights though their tokenizer is another.")
    ] = False,
) -> None:
    """Make a LLaMA of Hugging Face, or a checkpoint of DeepSpeed's own, the first checkpoint of a run: `launch` then
    trains on from it.

    Example: llama-dist checkpoint import exported/tiny configs/run/tiny.yaml --set name=tiny-continued
    """
    from importlib.metadata import version

    from llama_dist.config import load_run_config
    from llama_dist.interop.import_model import import_model

    config = load_run_config(run_file, tuple(overrides or ()))
    revision = f"{version('llama-dist')}, imported"
    written = import_model(
        source, config, revision, ignore_tokenizer=ignore_tokenizer, tell=lambda told: typer.echo(told, err=True)
    )
    typer.echo(written)
