"""The command line is frozen: a new verb or option costs a thought, and a lost one is no accident."""

import re
import subprocess
import sys
import time
from pathlib import Path

import cli_surface
import pytest
from source_tree import ROOT

REGENERATE = ".venv/bin/python tests/architecture/cli_surface.py > tests/architecture/cli_surface.txt"
VERBS = list(cli_surface.verbs())


def test_verbs_and_options_are_those_that_were_agreed():
    agreed = Path(__file__).with_name("cli_surface.txt").read_text(encoding="utf-8")
    assert cli_surface.surface() == agreed, f"if the change is meant: {REGENERATE}"


@pytest.mark.parametrize(("path", "command"), VERBS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_verb_says_what_it_does_with_an_example(path, command):
    text = f"{command.help or ''}\n{command.epilog or ''}"
    assert (command.help or "").strip(), f"{path} has no help"
    if not getattr(command, "commands", None):
        assert re.search(rf"Example: {re.escape(path)}\b", text), f"the help of `{path}` lacks `Example: {path} ...`"


@pytest.mark.parametrize(("path", "command"), VERBS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_option_has_help(path, command):
    silent = [one.name for one in command.params if not (getattr(one, "help", "") or "").strip()]
    assert not silent, f"{path}: {silent}"


def test_help_answers_at_once():
    """Under half a second on an idle machine; the best of five, and twice the limit, since tests share theirs."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "launcher", "--help"], check=True, capture_output=True, cwd=ROOT, timeout=60
        )
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5, seconds
