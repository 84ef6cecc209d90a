"""What the documents tell a reader to type works: every command is run, or checked where it cannot be run here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_in_a_box import name_for_tests
from docs_commands import DocumentCommand, commands_of, documents
from source_tree import ROOT

from launcher.lab.down import down
from launcher.lab.lab_error import LabError
from launcher.lab.layout import lab_directory
from launcher.lab.programs import check_machine
from llama_dist.config import RunDirectory, write_yaml
from llama_dist.metrics import Spool, StepMetrics

LIMIT_SECONDS = 280

# A launch of a document is the same launch, with these at its end: two steps show that it works.
FEW_STEPS = (
    "train.num_steps=2",
    "schedule.warmup_steps=0",
    "checkpoint.interval_steps=2",
    "evaluation.interval_steps=0",
)

# Commands that install, run for minutes or serve until ended; what stands for them is checked instead.
DOCUMENTED_LAB = "drill"
SERVERS = ("mlflow ui", "mlflow server")
ELSEWHERE = {
    "make": "checked by `make --dry-run`; the targets themselves are what continuous integration and releases run",
    ".ci/run": "is what runs this test",
    "git clone": "where this tree came from",
    "cd": "names the clone",
    "llama-dist demo": "run by `make demo`; here its options are checked",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Iterator[Path]:
    """Return a directory that looks like a fresh clone, with a text to train on; runs left alive in it are stopped."""
    directory = tmp_path_factory.mktemp("clone")
    for name in ("configs", "Makefile", "pyproject.toml", "benchmarks"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name)
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, directory / name)
    corpus = directory / "corpus"
    corpus.mkdir()
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:120]:
        shutil.copy(file, corpus / file.name)
    leave_finished_run(directory / "runs" / "my-run")
    yield directory
    for supervisor in directory.rglob("supervisor.json"):
        run_shell(directory, f"llama-dist stop {shlex.quote(str(supervisor.parent))}")
    if lab_directory(name_for_tests("d")).exists():  # a command of its page failed
        down(name_for_tests("d"))


@pytest.fixture(scope="module")
def run_document(workspace) -> Callable[[Path], list[str]]:
    """Return a function that runs a document, after the README, and answers its failures. Each runs once."""
    failures: dict[Path, list[str]] = {}

    def run(document: Path) -> list[str]:
        for each in dict.fromkeys([*(one for one in documents() if one.name == "README.md"), document]):
            if each not in failures:
                failures[each] = [fault for command in commands_of(each) if (fault := fault_of(workspace, command))]
        return failures[document]

    return run


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_every_command_of_the_documents_works(run_document, document):
    failures = run_document(document)
    assert not failures, "\n\n".join(failures)


def test_the_commands_of_a_document_are_found(tmp_path):
    """The check itself can fail: continued lines, comments, prompts and Python are seen, other fences are not."""
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\n# a comment\n$ .venv/bin/llama-dist plan \\\n    x.yaml  # why\n\nmake test\n```\n"
        "```\nnot a command\n```\n```python\nprint(1)\n```\n"
    )
    found = [(command.line, command.text) for command in commands_of(page)]
    assert found == [(3, "llama-dist plan x.yaml"), (6, "make test"), (12, "print(1)\n")]


def test_a_command_that_fails_is_seen(tmp_path):
    command = DocumentCommand(ROOT / "docs" / "made_up.md", 1, False, "llama-dist plan absent.yaml")
    fault = fault_of(tmp_path, command)
    assert fault is not None and "absent.yaml" in fault and "ended with 78" in fault


def leave_finished_run(path: Path) -> None:
    """Make a run directory as a finished run leaves it, for pages that say what to do with one of your own."""
    run = RunDirectory(path)
    config = {
        "name": path.name,
        "model": {"vocabulary_size": 300, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "feed_forward_size": 32},
        "data": {"sources": [{"path": "datasets/code"}], "sequence_length_tokens": 16},
        "batch": {"global_batch_sequences": 4},
        "train": {"num_steps": 1},
    }
    run.metrics.mkdir(parents=True)
    write_yaml(run.config, config)
    spool = Spool(run.metrics, attempt=1)
    spool.append(StepMetrics(1, 64, 5.7, 3e-4, 1.0, 100.0, 0.64, 0.5))
    spool.close()
    run.supervisor.write_text('{"state": "done"}')


def fault_of(workspace: Path, command: DocumentCommand) -> str | None:
    """Run one command, or what stands for it; return what went wrong."""
    if command.is_python:
        program = workspace / "from_the_docs.py"
        program.write_text(command.text)
        result = run_shell(workspace, f"python {program.name}")
    else:
        line = stand_in(command.text)
        if line is None:
            return None
        result = run_shell(workspace, line)
    if result.returncode == 0:
        return None
    return f"{command.place}\nended with {result.returncode}:\n{result.stdout[-3000:]}"


def stand_in(line: str) -> str | None:
    """Return what is run for a line of a document; None where nothing can be."""
    words = shlex.split(line)
    if words[0] == "make":
        return f"make --dry-run --directory {shlex.quote(str(ROOT))} {' '.join(words[1:])}"
    if re.search(rf"\b{DOCUMENTED_LAB}\b", line):
        return on_a_lab(line, words)
    if line.startswith(SERVERS):
        return options_exist(" ".join(words[:2]), words)
    if line.startswith("llama-dist demo"):
        return options_exist("llama-dist demo", words)
    if any(line == prefix or line.startswith(f"{prefix} ") for prefix in ELSEWHERE):
        return None
    if re.match(r"llama-dist (launch|plan)\b", line):
        return line + "".join(f" --set {one}" for one in FEW_STEPS)
    return line


def on_a_lab(line: str, words: list[str]) -> str | None:
    """Run it on a lab of this process's own name, since suites may share a machine; elsewhere check its options."""
    try:
        check_machine(with_slurm=False)
    except LabError:
        return options_exist(" ".join(words[:3]), words) if words[0] == "llama-dist" else None
    return re.sub(rf"\b{DOCUMENTED_LAB}\b", name_for_tests("d"), line)


def options_exist(program: str, words: list[str]) -> str:
    """Return a command that fails unless the program's help names each option that the line uses."""
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    checks = " && ".join(f'grep -q -e {shlex.quote(option)} <<<"$help"' for option in options) or "true"
    return f'help="$({program} --help)" && {checks}'


def run_shell(directory: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a reader's shell would, with this Python's programs first in the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=directory,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
