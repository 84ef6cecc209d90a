"""The one entry point, `llama-dist`: options, printing, exit codes. Every heavy import waits until its verb runs.

Does no work itself.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.cli import data_app, tokenizer_app
from launcher.edge import run_at_edge
from launcher.lab.cli import lab_app
from llama_dist.cli import register

if TYPE_CHECKING:
    from launcher.launch import Launch

app = typer.Typer(
    name="llama-dist",
    help="From raw text to a LLaMA-style model: prepare data, plan, train, resume, watch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a plain traceback can be pasted into a report
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(data_app, name="data")
app.add_typer(lab_app, name="lab")

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="Run file, for example configs/run/tiny.yaml.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", metavar="C.yaml", help="By default: this machine.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Overrides one field; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Run = Annotated[str, typer.Argument(help="Name of a run, or the path of its directory.")]
RunsDirectory = Annotated[Path, typer.Option(help="Where runs are looked up by name.")]


@app.command()
def plan(
    run_file: RunFile, *, cluster: ClusterFile = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Show what a launch would do: ranks, batch, memory, command, environment. Starts nothing.

    Example: llama-dist plan configs/run/tiny.yaml --cluster configs/cluster/local-2.yaml --set parallel.zero_stage=2
    """
    import os

    from launcher.launch import LaunchRequest, check_launch

    _print_plan(check_launch(LaunchRequest(run_file, cluster, tuple(overrides or ())), os.environ), as_json=as_json)


@app.command()
def launch(
    run_file: RunFile,
    *,
    cluster: ClusterFile = None,
    overrides: Overrides = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Lets an existing run change this field or section; may be repeated."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start at step 0; old checkpoints are set aside.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the plan; start nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background once the run is up.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print the plan as JSON.")] = False,
) -> None:
    """Start a run, or continue it from its newest checkpoint; restart it by itself when it crashes.

    Ctrl-C lets the ranks save and end. Exit codes: 0 done, 70 bug, 74 storage, 75 gave up retrying, 78 bad input,
    143 stopped; 130 for Ctrl-C before the run began.

    Example: llama-dist launch configs/run/tiny.yaml --set train.num_steps=200 --detach
    """
    import os

    from launcher.console import Console
    from launcher.launch import LaunchRequest, check_launch

    if as_json and not dry_run:
        raise typer.BadParameter("needs --dry-run", param_hint="--json")
    request = LaunchRequest(run_file, cluster, tuple(overrides or ()), tuple(allow_change or ()), fresh)
    checked = check_launch(request, os.environ)
    if dry_run:
        from launcher.changes import describe_changes

        for line in describe_changes(checked.find_changes()):
            typer.echo(f"changed:{line}", err=True)
        _print_plan(checked, as_json=as_json)
        return
    from launcher.begin import begin

    raise typer.Exit(begin(checked, Console(), os.environ, detach=detach))


@app.command()
def status(run: Run, *, runs_directory: RunsDirectory = Path("runs"), as_json: AsJson = False) -> None:
    """Show a run's state, the step of each rank, its newest checkpoint and last metrics.

    Example: llama-dist status tiny --json
    """
    from launcher.render import render_status
    from launcher.run_lookup import find_run
    from launcher.status import read_status

    found = read_status(find_run(run, runs_directory))
    _print(found, render_status(found), as_json=as_json)


@app.command()
def stop(
    run: Run,
    *,
    now: Annotated[bool, typer.Option("--now", help="End the ranks without a save.")] = False,
    runs_directory: RunsDirectory = Path("runs"),
) -> None:
    """Let a live run save and end, and wait until it has; from any host that sees the run's directory.

    Example: llama-dist stop tiny
    """
    from launcher.console import Console
    from launcher.run_lookup import find_run
    from launcher.stop import stop_run

    stop_run(find_run(run, runs_directory), Console(), now=now)


@app.command()
def doctor(
    run_file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.yaml]", help="Run file; without one the nodes alone are checked.")
    ] = None,
    *,
    cluster: ClusterFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check the nodes before a launch: reach, code, GPUs, memory, clocks, disks, data, ports, links between them.

    Takes less than a minute and changes nothing. Exit codes: 0 fit for a launch, 78 something must be mended.

    Example: llama-dist doctor configs/run/tiny.yaml --cluster configs/cluster/local-2.yaml
    """
    from launcher.doctor.render import render_report
    from launcher.doctor.visit import DoctorRequest, examine, read_subject

    report = examine(read_subject(DoctorRequest(run_file, cluster, tuple(overrides or ()))))
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else render_report(report))
    raise typer.Exit(int(report.exit_code))


@app.command("verify-resume")
def verify_resume(
    run_file: RunFile,
    *,
    cluster: ClusterFile = None,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps, even; half of them come after the kill.")] = 8,
    onto: Annotated[
        list[str] | None,
        typer.Option(metavar="a.b=c", help="A second topology: one field of it, on top of --set; may be repeated."),
    ] = None,
    onto_cluster: Annotated[
        Path | None, typer.Option(metavar="C2.yaml", help="Cluster file of the second topology.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the checkpoints of the sub-runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove on your own config that a killed and restarted run is the straight one: losses, samples, weights, moments.

    Real launches from step 0, below the run's directory; the run itself is not touched. With --onto, the second half
    is also done on a second topology. Exit code 0: equal; 1: different; others: a launch did not come far enough.

    Example: llama-dist verify-resume configs/run/tiny.yaml --steps 12 --onto cluster.num_processes_per_node=2
    """
    import os
    import sys

    from launcher.launch import LaunchRequest
    from launcher.verdict import render_verdict
    from launcher.verify_resume import VerificationRequest, verify_resume

    request = LaunchRequest(run_file, cluster, tuple(overrides or ()))
    verification = VerificationRequest(request, steps, tuple(onto or ()), onto_cluster, keep)
    verdict, path = verify_resume(verification, os.environ, sys.stderr if as_json else sys.stdout)
    typer.echo(json.dumps(verdict.to_json(), indent=2) if as_json else f"{render_verdict(verdict)}\nkept in {path}")
    raise typer.Exit(0 if verdict.result == "equal" else 1)


@app.command()
def rehearse(
    run_file: RunFile,
    *,
    cluster: ClusterFile = None,
    overrides: Overrides = None,
    faults: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="By default all: kill-node, partition, kill-rank, hang, full-disk."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="How many hosts the lab has, 1 to 99.")] = 3,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the checkpoints of the rehearsal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rehearse failures with your own config on a cluster in a box: break it in each way, see it noticed and mended.

    Trains on this machine's CPU, over ssh on hosts of network namespaces (root, Linux), below the run's directory; the
    run itself is not touched, and nothing is left. Exit code 0: recovered from all; 1: not; others: it never trained.

    Example: llama-dist rehearse configs/run/tiny.yaml --faults kill-node,hang --nodes 3
    """
    import sys

    from launcher.rehearsal.faults import parse_faults
    from launcher.rehearsal.record import render_rehearsal
    from launcher.rehearsal.rehearse import RehearsalRequest
    from launcher.rehearsal.rehearse import rehearse as run_rehearsal

    request = RehearsalRequest(run_file, cluster, tuple(overrides or ()), parse_faults(faults), nodes, keep)
    rehearsal, path = run_rehearsal(request, sys.stderr if as_json else sys.stdout)
    text = json.dumps(rehearsal.to_json(), indent=2) if as_json else f"{render_rehearsal(rehearsal)}\nkept in {path}"
    typer.echo(text)
    raise typer.Exit(0 if rehearsal.result == "recovered" else 1)


@app.command()
def demo(
    *,
    directory: Annotated[Path, typer.Option(help="Where the demo's data and runs go.")] = Path("demo"),
) -> None:
    """Go the whole road on this machine: text, tokenizer, shards, training, a killed rank, resume, a sample.

    Example: llama-dist demo --directory /tmp/demo
    """
    from launcher.demo import demo as run_demo

    raise typer.Exit(run_demo(directory))


checkpoint_app = register(app)


@checkpoint_app.command("now")
def save_now(
    run: Run,
    *,
    runs_directory: RunsDirectory = Path("runs"),
    timeout_seconds: Annotated[float, typer.Option(min=0, help="How long to wait for the checkpoint.")] = 600.0,
) -> None:
    """Let a live run save a checkpoint and go on; waits until it is written, and prints where.

    Example: llama-dist checkpoint now tiny
    """
    from launcher.run_lookup import find_run
    from launcher.save_now import save_now as wait_for_save

    typer.echo(wait_for_save(find_run(run, runs_directory), timeout_seconds))


@checkpoint_app.command("import")
def import_checkpoint(
    source: Annotated[
        Path, typer.Argument(help="Folder that `save_pretrained` or DeepSpeed's `save_checkpoint` wrote.")
    ],
    run_file: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run that shall begin with these weights.")],
    *,
    overrides: Overrides = None,
    ignore_tokenizer: Annotated[
        bool, typer.Option("--ignore-tokenizer", help="Take the weights though their tokenizer is another.")
    ] = False,
) -> None:
    """Make a LLaMA of Hugging Face, or a checkpoint of DeepSpeed's own, the first checkpoint of a run: `launch` then
    trains on from it.

    Example: llama-dist checkpoint import exported/tiny configs/run/tiny.yaml --set name=tiny-continued
    """
    from functools import partial
    from importlib.metadata import version

    from launcher.import_place import hold_for_import
    from llama_dist.config import load_run_config
    from llama_dist.interop.import_model import import_model

    config = load_run_config(run_file, tuple(overrides or ()))
    revision = f"{version('llama-dist')}, imported"
    tell = partial(typer.echo, err=True)
    hold = partial(hold_for_import, tell=tell)
    written = import_model(source, config, revision, ignore_tokenizer=ignore_tokenizer, tell=tell, hold=hold)
    typer.echo(written)


def main() -> None:
    """Run the program; typer itself ends it with 2 for a wrong use."""
    run_at_edge(_run)


def _run() -> int:
    app()
    return 0


def _print_plan(launch: "Launch", *, as_json: bool) -> None:
    from dataclasses import asdict

    from launcher.dry_run import describe_start
    from launcher.render import render_plan

    plan, start = launch.plan_next(), describe_start(launch)
    if as_json:
        typer.echo(json.dumps(asdict(plan) | {"start": asdict(start)}, indent=2))
    else:
        typer.echo("\n".join([render_plan(plan), *start.to_lines()]))


def _print(record: Any, text: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    typer.echo(json.dumps(asdict(record), indent=2) if as_json else text)
