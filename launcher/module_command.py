"""The argument list that runs a module as a program, which imports nothing out of the working directory."""

import sys
from functools import cache
from importlib.metadata import distributions

_DISTRIBUTION = "llama-dist"


def module_command(python: str, module: str) -> tuple[str, ...]:
    """Return the command that runs `module`.

    The working directory may hold a stray `queue.py` or another `launcher/`, over ssh it is the user's home: -P keeps
    Python from looking there. A program that was never installed is found nowhere else, and goes without.
    """
    return (python, *(("-P",) if _is_installed() else ()), "-m", module)


@cache
def _is_installed() -> bool:
    """Whether Python knows this program without the working directory: installed, be it as an editable one."""
    first = 0 if sys.flags.safe_path else 1  # before it stands the working directory, or that of a script
    return any(True for _ in distributions(name=_DISTRIBUTION, path=sys.path[first:]))
