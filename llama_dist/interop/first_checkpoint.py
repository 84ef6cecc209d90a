"""Makes tensors from elsewhere the first checkpoint of a run, and reads what lies beside them. Knows no format."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_pipeline.durable_file import checksum_bytes
from llama_dist.checkpoint.manifest import Progress, list_candidates
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.config import RunConfig, RunDirectory, dump_config
from llama_dist.interop.errors import ExchangeError

NamedState = tuple[str, str, torch.Tensor]
"""Our name of a parameter, one of STATES, and the whole fp32 tensor."""


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
    if list_candidates(run.checkpoints):
        raise ExchangeError(f"{run.checkpoints}: the run has checkpoints already: give it another name")
    return run


def write_first_checkpoint(
    run: RunDirectory, config: RunConfig, revision: str, state: FirstState, tokenizer: bytes
) -> Path:
    """Write step 0 of the run; answers the checkpoint's directory. Raises CheckpointError where the disk refuses."""
    run.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    progress = Progress(
        step=0,
        tokens_seen=0,
        config=dump_config(config),
        code_revision=revision,
        world={},
        data={},
        kind="imported",
    )
    return write_checkpoint(
        run.checkpoints, progress, state.tensors, scalars=state.scalars, tokenizer=tokenizer, states=state.states
    )


def read_json(path: Path, needed: str) -> dict[str, Any]:
    """The object in a JSON file. Raises ExchangeError; `needed` says what the folder must be."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExchangeError(f"{path}: cannot be read: {error.strerror}: needs {needed}") from None
    except ValueError:
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
