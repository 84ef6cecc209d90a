"""Makes Hugging Face's LLaMA the first checkpoint of a run, from safetensors files alone. Executes nothing of them."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llama_dist.checkpoint.manifest import CheckpointError
from llama_dist.config import RunConfig
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.first_checkpoint import (
    FirstState,
    directory_of_new_run,
    read_json,
    tokenizer_of_run,
    write_first_checkpoint,
)
from llama_dist.interop.hf_config import check_fits
from llama_dist.interop.hf_names import from_hf
from llama_dist.interop.parameter_fit import check_parameters

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def import_from_hf(source: Path, config: RunConfig, revision: str, *, ignore_tokenizer: bool = False) -> Path:
    """Write the weights as step 0 of the run; answers the checkpoint's directory. Moments begin at zero.

    Raises ExchangeError where source and run do not fit or the run has checkpoints already, CheckpointError where a
    file is damaged or the disk refuses.
    """
    run = directory_of_new_run(config)
    place = source / "config.json"
    check_fits(
        read_json(place, "a folder that `save_pretrained` wrote, or one with the `latest` of DeepSpeed"),
        config.model,
        str(place),
    )
    tokenizer = tokenizer_of_run(source, config, ignore_tokenizer=ignore_tokenizer)
    # A tied head may be saved once more.
    spare = ("head.weight",) if config.model.tie_embeddings else ()
    with ExitStack() as stack:
        tensors = _open(stack, source)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        names = check_parameters(shapes, config.model, from_hf, source, spare=spare)
        weights = ((ours, "fp32", tensors[theirs].read()) for ours, theirs in names.items())
        return write_first_checkpoint(run, config, revision, FirstState(weights, ("fp32",)), tokenizer)


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
