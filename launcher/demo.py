"""`llama-dist demo`: the whole road on this machine, each stage a real command that the user could type.

Starts the same verbs as a user, kills a rank for real, and does no training, tokenizing or resuming of its own.
"""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from launcher.demo_run import KILL_AT_STEP, NUM_STEPS, STOP_AT_STEP, VOCABULARY_SIZE, run_values
from launcher.status import read_status
from llama_dist.config import ReportedError, RunDirectory, write_yaml

_STEP_LINE = re.compile(r"^step +(\d+)/")
_SHOWN_STEPS = 10  # one line in ten is enough to see it learn
_STOPPED = 143
_PROMPT = "def __init__(self, "

Events = Sequence[tuple[int, Callable[[], None]]]
"""What to do to the run, each at its step."""


class DemoError(ReportedError):
    """A stage of the demo did not end as it must; its own output above says why."""


class Demo:
    """Runs the stages in order; every stage prints the command that it starts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.console = Console(highlight=False, soft_wrap=True)
        self.name = _free_name(directory / "runs")
        self.run = RunDirectory(directory / "runs" / self.name)
        self.run_file = directory / f"{self.name}.yaml"
        self._stage = 0

    def stage(self, title: str) -> None:
        """Announce the next stage."""
        self._stage += 1
        self.console.print(f"\n[bold]== {self._stage}. {title}[/bold]")

    def command(self, *arguments: str) -> None:
        """Run one verb with its output on the terminal. Raises DemoError if it fails."""
        self._show(arguments)
        code = subprocess.run(_argv(arguments), check=False).returncode
        if code:
            raise DemoError(f"`llama-dist {shlex.join(arguments)}` ended with exit code {code}: see its output above")

    def answer(self, *arguments: str) -> str:
        """Run one verb and return what it prints. Raises DemoError if it fails."""
        self._show(arguments)
        done = subprocess.run(_argv(arguments), check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise DemoError(f"`llama-dist {shlex.join(arguments)}` ended with exit code {done.returncode}")
        return done.stdout

    def train(self, *overrides: str, expected_code: int = 0, at_steps: Events = ()) -> None:
        """Launch the run and show its progress; at some steps, do something to it. Raises DemoError on another end."""
        settings = [part for override in overrides for part in ("--set", override)]
        arguments = ("launch", str(self.run_file), *settings)
        self._show(arguments)
        process = subprocess.Popen(_argv(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert process.stdout is not None
            self._follow(process.stdout, at_steps)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if code != expected_code:
            raise DemoError(f"the launch ended with exit code {code} instead of {expected_code}; see {self.run.path}")

    def _follow(self, lines: Iterable[str], at_steps: Events) -> None:
        """Show a bar, every tenth step, and all that is not a step."""
        columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TimeElapsedColumn())
        events = list(at_steps)
        with Progress(*columns, console=self.console, transient=True) as progress:
            bar = progress.add_task("train", total=NUM_STEPS)
            for line in lines:
                match = _STEP_LINE.match(line)
                step = int(match.group(1)) if match else None
                if step is not None:
                    progress.update(bar, completed=step)
                if step is None or step % _SHOWN_STEPS == 0 or step == 1:
                    progress.console.print(line.rstrip(), markup=False)
                if events and step is not None and step >= events[0][0]:
                    events.pop(0)[1]()

    def kill_rank(self) -> None:
        """SIGKILL rank 1: no handler runs, nothing is saved."""
        rank = next(rank for rank in read_status(self.run).ranks if rank.rank == 1)
        self.console.print(f"[bold]>> kill -9 {rank.pid}   (rank 1, at step {rank.step})[/bold]")
        os.kill(rank.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ask the run to save and end, as a user would."""
        arguments = ("stop", str(self.run.path))
        self._show(arguments)
        subprocess.Popen(_argv(arguments), stdout=subprocess.DEVNULL)

    def _show(self, arguments: tuple[str, ...]) -> None:
        self.console.print(f"$ llama-dist {shlex.join(arguments)}", markup=False)


def demo(directory: Path) -> int:
    """Go the whole road below `directory`; answers the exit code. Raises DemoError where a stage fails."""
    started = time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    road = Demo(directory)
    corpus = sysconfig.get_paths()["stdlib"]
    excluded = ("site-packages/*", "test/*", "*/test/*", "*/tests/*")
    files = ("--glob", "**/*.py", *(part for pattern in excluded for part in ("--exclude", pattern)))
    tokenizer, data = directory / "tokenizer.model", directory / "data"

    road.stage(f"Tokenizer: {VOCABULARY_SIZE} ids from the sources of Python's standard library")
    road.command(
        "tokenizer", "train", corpus, *files, "--vocabulary-size", str(VOCABULARY_SIZE), "--sample-megabytes", "4",
        "--output", str(tokenizer), "--overwrite",
    )  # fmt: skip
    road.stage("Arrow shards, with 2 % of the documents held out")
    road.command(
        "data", "prepare", corpus, *files, "--tokenizer", str(tokenizer), "--output", str(data),
        "--validation-fraction", "0.02", "--workers", "2",
    )  # fmt: skip

    write_yaml(road.run_file, run_values(road.name, directory))
    two = "cluster.num_processes_per_node=2"
    road.stage("Training on 2 processes, ZeRO-1; one rank is killed in mid-run and the run resumes by itself")
    road.train(two, expected_code=_STOPPED, at_steps=[(KILL_AT_STEP, road.kill_rank), (STOP_AT_STEP, road.stop)])
    road.stage("The same run, continued as a pipeline of 2 stages")
    road.train(two, "parallel.pipeline_stages=2")

    road.stage("What it learned")
    _compare_with_unigram(road, data)
    road.command("generate", str(road.run.path), "--prompt", _PROMPT, "--max-new-tokens", "80", "--seed", "1")
    road.stage("The metrics of all attempts are one MLflow run; to look at them:")
    uri = f"sqlite:///{(directory / 'runs' / 'mlflow.db').resolve()}"
    mlflow = Path(sys.executable).with_name("mlflow")
    road.console.print(f"{shlex.quote(str(mlflow))} ui --backend-store-uri {shlex.quote(uri)}", markup=False)
    road.console.print(f"\nDone in {time.monotonic() - started:.0f} s. Everything lies in {directory}.", markup=False)
    return 0


def _compare_with_unigram(road: Demo, data: Path) -> None:
    """Print the held-out loss beside the entropy of the same tokens' frequencies: what counting alone would reach."""
    entropy = json.loads(road.answer("data", "inspect", str(data), "--split", "validation", "--json"))
    unigram = float(entropy["unigram_entropy_nats"])
    loss = float((read_status(road.run).last_metrics or {}).get("held_out_loss", math.nan))
    road.console.print(
        f"held-out loss {loss:.3f} nats/token; unigram entropy of the held-out tokens {unigram:.3f}; "
        f"gain {unigram - loss:.3f} nats"
    )
    if not unigram - loss >= 1.0:
        raise DemoError(f"held-out loss {loss:.3f} is not 1 nat below the unigram entropy {unigram:.3f}")


def _argv(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "launcher", *arguments]


def _free_name(runs: Path) -> str:
    """Name a new run each time, so that an earlier demo stays as it is."""
    number = 1
    while (runs / f"demo-{number}").exists():
        number += 1
    return f"demo-{number}"
