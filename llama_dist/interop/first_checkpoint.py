"""Makes tensors from elsewhere the first checkpoint of a run, and reads what lies beside them. Knows no format."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_pipeline.durable_file import checksum_bytes
from llama_dist.checkpoint.manifest import CheckpointError, Progress, list_candidates
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.config import RunConfig, RunDirectory, dump_config
from llama_dist.config.run_life import begin_life, note_saved
from llama_dist.interop.errors import ExchangeError

NamedState = tuple[str, str, torch.Tensor]
"""Our name of a parameter, one of STATES, and the whole fp32 tensor."""


HoldRun = Callable[[RunDirectory, RunConfig], AbstractContextManager[None]]
"""Makes the run's directory, with the place of its checkpoints, and keeps a launch from the run meanwhile."""


@dataclass(frozen=True)
class FirstState:
    """What a run shall begin with."""

    tensors: Iterable[NamedState]
    """Read once, a parameter's states one after the other."""

    states: tuple[str, ...]
    """Those that every parameter has; moments that are absent begin at zero."""

    scalars: dict[str, float] = field(default_factory=dict)
    """Optimizer steps and loss scale, where the moments go on."""


def directory_of_new_run(config: RunConfig) -> RunDirectory:
    """Where the run will be. Raises ExchangeError where it has checkpoints already."""
    run = RunDirectory(Path(config.runs_directory) / config.name)
    _refuse_checkpoints(run)
    return run


@contextmanager
def make_directory(run: RunDirectory, _config: RunConfig) -> Iterator[None]:
    """Make the run's directory and hold nothing: for callers that know that nobody launches the run meanwhile."""
    run.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield


def write_first_checkpoint(
    run: RunDirectory, config: RunConfig, revision: str, state: FirstState, tokenizer: bytes, hold: HoldRun
) -> Path:
    """Write step 0 of the run, of which a life begins; answers the checkpoint's directory.

    Raises CheckpointError where the disk refuses, ExchangeError where the run has checkpoints by now.
    """
    progress = Progress(
        step=0,
        tokens_seen=0,
        config=dump_config(config),
        code_revision=revision,
        world={},
        data={},
        kind="imported",
    )
    with hold(run, config):
        _refuse_checkpoints(run)
        try:
            written = write_checkpoint(
                run.checkpoints,
                progress,
                state.tensors,
                scalars=state.scalars,
                tokenizer=tokenizer,
                states=state.states,
            )
        except BaseException:
            with contextlib.suppress(OSError):  # a link, or not empty: not made here
                run.checkpoints.rmdir()
            raise
        _note(run, written)
    return written


def _refuse_checkpoints(run: RunDirectory) -> None:
    if list_candidates(run.checkpoints):
        raise ExchangeError(f"{run.checkpoints}: the run has checkpoints already: give it another name")


def _note(run: RunDirectory, written: Path) -> None:
    """Begin a life that has saved step 0: lost before the first launch, that one must not start from zero."""
    try:
        begin_life(run)
        note_saved(run, 0)
    except OSError as error:
        raise CheckpointError(
            f"{written} is written, but not the run's note of it: {error.filename}: {error.strerror}: free or mend the "
            "disk and launch the run, which writes it"
        ) from None


def read_json(path: Path, needed: str) -> dict[str, Any]:
    """The object in a JSON file. Raises ExchangeError; `needed` says what the folder must be."""
    try:
        if path.exists() and not path.is_file():  # a pipe would keep the reader waiting for ever
            raise ExchangeError(f"{path}: is no regular file: needs {needed}")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExchangeError(f"{path}: cannot be read: {error.strerror}: needs {needed}") from None
    except (ValueError, RecursionError):
        raise ExchangeError(f"{path}: is not JSON: the file is damaged") from None
    if not isinstance(values, dict):
        raise ExchangeError(f"{path}: holds {type(values).__name__}, needs an object")
    return values


def tokenizer_of_run(source: Path, config: RunConfig, *, ignore_tokenizer: bool) -> bytes:
    """Content of the tokenizer of the run's data. Raises ExchangeError unless the source is known to have the same."""
    used = next((path for one in config.data.sources if (path := Path(one.path) / "tokenizer.model").is_file()), None)
    content = used.read_bytes() if used else b""
    if used and not ignore_tokenizer:
        _check_same_tokenizer(source / "tokenizer.model", used, checksum_bytes(content))
    return content


def _check_same_tokenizer(theirs: Path, used: Path, needed: str) -> None:
    advice = "add --ignore-tokenizer to train on other ids"
    if not theirs.is_file():
        others = ", ".join(sorted(path.name for path in theirs.parent.glob("tokenizer*")))
        raise ExchangeError(
            f"{theirs}: is not there{f' ({others} cannot be compared)' if others else ''}, so the model may have other "
            f"token ids than {used}, with which the data was prepared: put the model's own file there, or {advice}"
        )
    found = checksum_bytes(theirs.read_bytes())
    if found != needed:
        raise ExchangeError(
            f"{theirs}: checksum {found}, the run's data was prepared with {used}, checksum {needed}: prepare the "
            f"data with the model's own tokenizer, or {advice}"
        )
