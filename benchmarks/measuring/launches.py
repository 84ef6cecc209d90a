"""Real runs of a tiny model, started and timed: by `llama-dist launch`, by bare torchrun, and after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from launcher.records import process_is_alive, read_heartbeats
from llama_dist.config import RunDirectory

_VOCABULARY_SIZE = 512
_LONGEST_SECONDS = 300.0
_POLL_SECONDS = 0.005
_KILLED_RANK = 1
# What torchrun says first of a killed rank: that it ends the others, or where they have ended by then, who failed.
_SIGNS_OF_NOTICE = (" closing signal SIG", "failed (exitcode")


class TinyRuns:
    """Runs of two ranks over a small corpus in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._prepare()

    def launch(self) -> float:
        """Seconds from the start of `llama-dist launch` to the first step."""
        run, process, began = self._start()
        try:
            return self._first_step(run, process) - began
        finally:
            _stop(process)

    def bare_torchrun(self) -> float:
        """The same with torchrun alone, on the files that a launch has left for its ranks."""
        former, process, _ = self._start()
        self._first_step(former, process)
        _stop(process)
        run = RunDirectory(former.path.with_name(f"{former.name}-bare"))
        shutil.copytree(former.attempt(1), run.attempt(1), ignore=shutil.ignore_patterns("rank_*", "exit.json"))
        run.heartbeats.mkdir()
        environment = json.loads((run.attempt(1) / "environment.json").read_text())
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "llama_dist.train"]
        began = time.time()
        process = _popen([*command, "--run-directory", str(run.path), "--attempt", "1"], environment)
        try:
            return self._first_step(run, process) - began
        finally:
            _stop(process)

    def recovery(self) -> tuple[float, float, float, float]:
        """Seconds from a rank's kill to notice, teardown and the next attempt's first step; and the cold start's."""
        run, process, began = self._start()
        try:
            cold = self._first_step(run, process) - began
            _wait(lambda: _newest_step(run) >= 10, process)
            ranks = read_heartbeats(run.heartbeats)
            os.kill(ranks[_KILLED_RANK].pid, signal.SIGKILL)
            killed = time.time()
            log = run.attempt(1) / "logs" / "agent.log"
            _wait(lambda: any(sign in log.read_text() for sign in _SIGNS_OF_NOTICE), process)
            noticed = time.time()
            _wait(lambda: not any(process_is_alive(rank.pid, rank.create_time) for rank in ranks.values()), process)
            torn_down = time.time()
            _wait(lambda: _has_stepped(run, attempt=2), process)
            return noticed - killed, torn_down - killed, time.time() - killed, cold
        finally:
            _stop(process)

    def _prepare(self) -> None:
        corpus = str(Path(sysconfig.get_paths()["stdlib"]) / "json")
        tokenizer, only_python = str(self._folder / "tokenizer.model"), ("--glob", "**/*.py")
        size = ("--vocabulary-size", str(_VOCABULARY_SIZE))
        _verb("tokenizer", "train", corpus, *only_python, *size, "--output", tokenizer)
        output = ("--output", str(self._folder / "data"))
        _verb("data", "prepare", corpus, *only_python, "--tokenizer", tokenizer, *output)

    def _start(self) -> tuple[RunDirectory, "subprocess.Popen[bytes]", float]:
        self._count += 1
        values = run_values(self._folder, f"run{self._count}", num_steps=1_000_000)
        run_file = self._folder / f"run{self._count}.yaml"
        run_file.write_text(yaml.safe_dump(values))
        began = time.time()
        command = (sys.executable, "-m", "launcher", "launch", str(run_file))
        process = _popen([*command, "--set", "cluster.num_processes_per_node=2"], os.environ)
        return RunDirectory(self._folder / "runs" / values["name"]), process, began

    def _first_step(self, run: RunDirectory, process: "subprocess.Popen[bytes]") -> float:
        _wait(lambda: _has_stepped(run, attempt=1), process)
        return time.time()


def run_values(folder: Path, name: str, num_steps: int) -> dict[str, object]:
    """The run file of a tiny model over the corpus of `folder`."""
    return {
        "name": name,
        "runs_directory": str(folder / "runs"),
        "model": {
            "vocabulary_size": _VOCABULARY_SIZE, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
            "feed_forward_size": 64, "max_sequence_length_tokens": 64,
        },
        "data": {"sources": [{"path": str(folder / "data")}], "sequence_length_tokens": 64},
        "batch": {"global_batch_sequences": 8, "micro_batch_sequences": 2},
        "train": {"num_steps": num_steps, "precision": "fp32"},
        "checkpoint": {"interval_steps": 5},
        "metrics": {"mlflow": False},
    }  # fmt: skip


def seconds_to_plan(folder: Path, num_nodes: int) -> float:
    """Seconds of `llama-dist launch --dry-run --json` over ssh for so many nodes of 8 ranks each."""
    hostfile = folder / f"hosts{num_nodes}"
    hostfile.write_text("".join(f"rack{number // 64}-node{number} slots=8\n" for number in range(num_nodes)))
    values = run_values(folder, f"wide{num_nodes}", 10)
    run_file = folder / f"wide{num_nodes}.yaml"
    run_file.write_text(yaml.safe_dump(values | {"batch": {"global_batch_sequences": 8 * num_nodes}}))
    settings = ("--set", "cluster.backend=ssh", "--set", f"cluster.hostfile={hostfile}")
    began = time.perf_counter()
    _verb("launch", str(run_file), *settings, "--dry-run", "--json")
    return time.perf_counter() - began


def _has_stepped(run: RunDirectory, attempt: int) -> bool:
    """Whether a step of the attempt stands in the metrics."""
    if not run.attempt(attempt).exists() or not run.spool.exists():
        return False
    needle = f'"attempt":{attempt}'
    return any(needle in line.replace(" ", "") for line in run.spool.read_text().splitlines())


def _newest_step(run: RunDirectory) -> int:
    return max((beat.step for beat in read_heartbeats(run.heartbeats).values()), default=0)


def _wait(is_met: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not is_met():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"`{process.args!r}` ended with {process.poll()} or took too long")
        time.sleep(_POLL_SECONDS)


def _popen(command: list[str], environment: "os._Environ[str] | dict[str, str]") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _verb(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "launcher", *arguments], check=True, capture_output=True)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(_LONGEST_SECONDS)
