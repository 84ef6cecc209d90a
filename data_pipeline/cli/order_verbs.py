"""`llama-dist data simulate`: what a run will see. Heavy imports wait until the verb runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_pipeline.cli.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_pipeline.simulation import Simulation, SourceCount


def register(app: typer.Typer) -> None:
    """Mount the verb on `app`."""
    app.command("simulate", epilog="Example: llama-dist data simulate configs/run/tiny.yaml --steps 1000")(
        simulate_verb
    )


def simulate_verb(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="Run file, or a run's directory.")],
    *,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; by default train.num_steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run will see: samples, tokens, shares and repeats, by stage and source."""
    import json
    from dataclasses import asdict

    from data_pipeline.run_file import read_run_sections
    from data_pipeline.simulation import read_shapes, simulate

    sections = read_run_sections(run)
    simulation = simulate(
        sections.data,
        read_shapes(sections.data),
        num_steps=steps or sections.num_steps(),
        batch_sequences=sections.batch.global_batch_sequences,
    )
    if as_json:
        typer.echo(json.dumps(asdict(simulation)))
        return
    for line in _lines(simulation):
        typer.echo(line)


def _lines(simulation: "Simulation") -> list[str]:
    skipped = f", {simulation.skipped_samples:,} samples skipped" if simulation.skipped_samples else ""
    lines = []
    for stage in simulation.stages:
        lines.append(f"stage {stage.stage}, from step {stage.first_step:,}: {_amount(stage.samples, stage.tokens)}")
        lines += _source_lines(stage.sources)
    lines.append(f"run, {simulation.steps:,} steps: {_amount(simulation.samples, simulation.tokens)}{skipped}")
    lines += _source_lines(simulation.sources)
    return lines + [f"warning: {warning}" for warning in simulation.warnings]


def _amount(samples: int, tokens: int) -> str:
    return f"{samples:,} samples, {tokens:,} tokens"


def _source_lines(sources: "Sequence[SourceCount]") -> list[str]:
    width = max(len(one.name) for one in sources)
    return [
        f"  {one.name:<{width}}  {one.share:7.2%}  {one.samples:>15,} samples  {one.tokens:>19,} tokens  "
        f"{one.epochs:>9.2f} epochs so far"
        for one in sources
    ]
