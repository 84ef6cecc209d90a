"""Makes Hugging Face's LLaMA the first checkpoint of a run, from safetensors files alone. Executes nothing of them."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from data_pipeline.durable_file import checksum_bytes
from llama_dist.checkpoint.manifest import CheckpointError, Progress, list_candidates
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.config import ModelConfig, RunConfig, RunDirectory, dump_config
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.hf_config import check_fits
from llama_dist.interop.hf_names import from_hf, to_hf
from llama_dist.model import Llama

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def import_from_hf(source: Path, config: RunConfig, revision: str, *, ignore_tokenizer: bool = False) -> Path:
    """Write the weights as step 0 of the run; answers the checkpoint's directory. Moments begin at zero.

    Raises ExchangeError where source and run do not fit or the run has checkpoints already, CheckpointError where a
    file is damaged or the disk refuses.
    """
    run = RunDirectory(Path(config.runs_directory) / config.name)
    if list_candidates(run.checkpoints):
        raise ExchangeError(f"{run.checkpoints}: the run has checkpoints already: give it another name")
    check_fits(_read_json(source / "config.json"), config.model, str(source / "config.json"))
    tokenizer = _tokenizer(source, config, ignore_tokenizer=ignore_tokenizer)
    with ExitStack() as stack:
        tensors = _open(stack, source)
        _check_parameters(tensors, config.model, source)
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
        weights = ((name, "fp32", tensors[to_hf(name) or ""].read()) for name in shapes_of(config.model))
        return write_checkpoint(run.checkpoints, progress, weights, scalars={}, tokenizer=tokenizer, states=("fp32",))


def shapes_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the run's model, by our names."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in Llama(model).named_parameters()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExchangeError(
            f"{path}: cannot be read: {error.strerror}: needs a folder that `save_pretrained` wrote"
        ) from None
    except ValueError:
        raise ExchangeError(f"{path}: is not JSON: the file is damaged") from None
    if not isinstance(values, dict):
        raise ExchangeError(f"{path}: holds {type(values).__name__}, needs an object")
    return values


def _tokenizer(source: Path, config: RunConfig, *, ignore_tokenizer: bool) -> bytes:
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


@dataclass(frozen=True)
class _Stored:
    """One tensor of an open file."""

    path: Path
    file: Any
    name: str
    shape: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """The tensor in fp32."""
        tensor: torch.Tensor = self.file.get_tensor(self.name)
        if tensor.dtype not in _TYPES:
            raise ExchangeError(f"{self.path}: {self.name} is {tensor.dtype}: needs fp32, bf16 or fp16")
        return tensor.to(torch.float32)


def _open(stack: ExitStack, source: Path) -> dict[str, _Stored]:
    """The tensors of all files, by their names there."""
    files = sorted(source.glob("*.safetensors"))
    if not files:
        others = sorted(path.name for path in source.glob("*.bin"))
        hint = f" ({others[0]} is a pickle, which may hold code: save the model as safetensors)" if others else ""
        raise ExchangeError(f"{source}: holds no .safetensors file{hint}")
    tensors: dict[str, _Stored] = {}
    for path in files:
        try:
            opened = stack.enter_context(safe_open(path, framework="pt"))
            names = list(opened.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}: copy it again") from None
        for name in names:
            if name in tensors:
                raise ExchangeError(f"{path}: {name} is in another file as well: remove one of them")
            tensors[name] = _Stored(path, opened, name, tuple(opened.get_slice(name).get_shape()))
    return tensors


def _check_parameters(tensors: dict[str, _Stored], model: ModelConfig, source: Path) -> None:
    needed = shapes_of(model)
    faults = []
    for name, shape in needed.items():
        theirs = to_hf(name)
        if theirs is None or theirs not in tensors:
            faults.append(f"{theirs or name}: is missing")
        elif tensors[theirs].shape != shape:
            faults.append(f"{theirs}: has shape {tensors[theirs].shape}, the run's model {shape}")
    for theirs in sorted(tensors):
        ours = from_hf(theirs)
        # A tied head may be saved once more.
        if ours not in needed and not (model.tie_embeddings and ours == "head.weight"):
            faults.append(f"{theirs}: the run's model has no such parameter")
    if faults:
        raise ExchangeError(f"{source}: the tensors do not fit the run's model:\n  " + "\n  ".join(faults[:12]))
