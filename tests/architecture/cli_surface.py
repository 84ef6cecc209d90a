"""Writes the tree of verbs and options, as `tests/architecture/cli_surface.txt` holds it: run it as a program."""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from launcher.cli import app


def verbs(command: Any = None, path: str = "llama-dist") -> Iterator[tuple[str, Any]]:
    """Yield each verb with its path; a group comes before its verbs."""
    command = typer.main.get_command(app) if command is None else command
    yield path, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from verbs(inner, f"{path} {name}")


def surface() -> str:
    """Return one line for each verb and, indented, for each argument and option."""
    lines = []
    for path, command in verbs():
        lines.append(path)
        lines += sorted(f"    {_parameter(one)}" for one in command.params)
    return "\n".join(lines) + "\n"


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"argument {parameter.metavar or parameter.name.upper()}"
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return f"{names}{'' if parameter.is_flag else ' VALUE'}{' (required)' if parameter.required else ''}"


if __name__ == "__main__":
    sys.stdout.write(surface())
