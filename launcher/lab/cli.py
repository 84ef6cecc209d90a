"""The verbs `llama-dist lab ...`: options and printing only. Heavy imports wait until a verb runs."""

import json
from typing import Annotated

import typer

lab_app = typer.Typer(
    no_args_is_help=True,
    help="A cluster in a box: network namespaces as hosts, with sshd or a real Slurm, to rehearse failures on. Root.",
)

Name = Annotated[str, typer.Option("--name", help="The lab's name; labs of different names stand side by side.")]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node, for example node2.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_DEFAULT_NAME = "lab"  # launcher.lab.layout.DEFAULT_NAME; not imported, so that `--help` stays quick


@lab_app.command()
def up(
    *,
    name: Name = _DEFAULT_NAME,
    nodes: Annotated[int, typer.Option(help="How many hosts, 1 to 99: node1, node2 and so on.")] = 3,
    slurm: Annotated[bool, typer.Option("--slurm", help="Run a Slurm on the nodes, beside sshd.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build a lab, and print how to reach it. It stays until `llama-dist lab down`.

    Example: llama-dist lab up --nodes 3 --slurm
    """
    from launcher.lab.render import lab_values, render_lab
    from launcher.lab.up import up as build

    lab = build(name, num_nodes=nodes, with_slurm=slurm)
    typer.echo(json.dumps(lab_values(lab), indent=2) if as_json else render_lab(lab))


@lab_app.command()
def down(*, name: Name = _DEFAULT_NAME) -> None:
    """Remove a lab: its processes, links, namespaces and files; also one that was left half built.

    Example: llama-dist lab down
    """
    from launcher.lab.down import down as remove

    typer.echo(f"lab `{name}` is gone" if remove(name) else f"there is no lab `{name}`: nothing to remove")


@lab_app.command()
def status(*, name: Name = _DEFAULT_NAME, as_json: AsJson = False) -> None:
    """Show the nodes: whether each is up, slow, cut off or killed, its daemons, how many processes it has.

    Example: llama-dist lab status --json
    """
    from dataclasses import asdict

    from launcher.lab.render import render_status
    from launcher.lab.state import find_lab
    from launcher.lab.status import read_status

    found = read_status(find_lab(name))
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else render_status(found))


@lab_app.command()
def kill(node: NodeName, *, name: Name = _DEFAULT_NAME) -> None:
    """Let a host die: its link goes down, then all its processes end.

    Example: llama-dist lab kill node2
    """
    from launcher.lab.faults import kill as kill_node
    from launcher.lab.state import find_lab

    num_processes = kill_node(find_lab(name), node)
    typer.echo(f"{node} is dead: link down, {num_processes} process(es) ended; `llama-dist lab mend {node}` starts it")


@lab_app.command()
def cut(node: NodeName, *, name: Name = _DEFAULT_NAME) -> None:
    """Cut a node off from the others; its processes live on.

    Example: llama-dist lab cut node2
    """
    from launcher.lab.faults import cut as cut_node
    from launcher.lab.state import find_lab

    cut_node(find_lab(name), node)
    typer.echo(f"{node} is cut off; `llama-dist lab mend {node}` joins it again")


@lab_app.command()
def slow(
    node: NodeName,
    *,
    name: Name = _DEFAULT_NAME,
    mbit: Annotated[float, typer.Option(help="Megabits a second, in each direction; 0.1 to 10000.")] = 10.0,
) -> None:
    """Make a node's link slow.

    Example: llama-dist lab slow node1 --mbit 10
    """
    from launcher.lab.faults import slow as slow_node
    from launcher.lab.state import find_lab

    slow_node(find_lab(name), node, mbit)
    typer.echo(f"{node} has {mbit:g} Mbit/s; `llama-dist lab mend {node}` lifts the limit")


@lab_app.command()
def mend(node: NodeName, *, name: Name = _DEFAULT_NAME) -> None:
    """Undo what was done to a node: link up, no limit, its daemons running.

    Example: llama-dist lab mend node2
    """
    from launcher.lab.faults import mend as mend_node
    from launcher.lab.state import find_lab

    mend_node(find_lab(name), node)
    typer.echo(f"{node} is up")


@lab_app.command("exec")
def run_command(
    node: NodeName,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run, after `--`.")],
    *,
    name: Name = _DEFAULT_NAME,
) -> None:
    """Run a command on a node, in its network and under its host name; ends with the command's own code.

    Example: llama-dist lab exec node1 -- hostname
    """
    from launcher.lab.inside import become_inside
    from launcher.lab.state import find_lab

    become_inside(find_lab(name), node, command)
