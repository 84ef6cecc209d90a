"""What DeepSpeed's model file says: names and shapes in the order of the partitions, tied names, and the weights that
the forward pass used.

Keys as of DeepSpeed 0.19.8: runtime/engine.py, `_common_checkpoint_state`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_dist.interop.deepspeed_rank import foreign
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.flat_layout import Shapes
from llama_dist.interop.inert_file import read_inert

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class ModuleState:
    """One model file."""

    path: Path
    groups: list[Shapes]
    """Shapes of the optimizer's parameters, by its groups, in the order of the flat partitions; empty without ZeRO."""

    aliases: dict[str, str]
    """Name of a tied weight that is not stored, and the name under which it is."""

    module: dict[str, torch.Tensor]
    """By name, buffers left out. At ZeRO 3 the tensors are empty."""

    frozen_names: tuple[str, ...]
    """Parameters that the file itself calls frozen."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The module's own weights, a tied one once."""
        return {name: tensor for name, tensor in self.module.items() if name not in self.aliases}

    def frozen(self, stored: Collection[str]) -> list[str]:
        """Names of the parameters that are in the module but not among those `stored`."""
        return sorted((self.module.keys() | set(self.frozen_names)) - set(stored) - self.aliases.keys())


def read_module(path: Path) -> ModuleState:
    """Read one `..._model_states.pt`. Raises ExchangeError for a foreign file, CheckpointError for a damaged one."""
    values = read_inert(path)
    _refuse_model_parallel(path, values)
    buffers = values.get("buffer_names") or ()
    module = {name: tensor for name, tensor in _tensors(path, values.get("module")).items() if name not in buffers}
    shared = values.get("shared_params") or {}
    if not _is_table(shared, str):
        raise foreign(path, "shared_params", shared)
    frozen = values.get("frozen_param_shapes") or {}
    groups = [_shapes(path, group) for group in values.get("param_shapes") or ()]
    return ModuleState(path, groups, dict(shared) or _tied(module), module, tuple(map(str, frozen)))


def _refuse_model_parallel(path: Path, values: Mapping[str, Any]) -> None:
    size = values.get("mp_world_size")
    if isinstance(size, int) and size > 1:
        raise ExchangeError(
            f"{path}: is one of {size} model parallel parts: only data parallel ones are read: save the model as "
            "Hugging Face's safetensors with the program that trained it, and import those"
        )


def _tensors(path: Path, module: Any) -> dict[str, torch.Tensor]:
    if not _is_table(module, torch.Tensor) or not module:
        raise foreign(path, "module", module)
    for tensor in module.values():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise foreign(path, "module", tensor)
    return dict(module)


def _shapes(path: Path, group: Any) -> Shapes:
    if not _is_table(group, tuple) or not all(type(size) is int and size > 0 for s in group.values() for size in s):
        raise foreign(path, "param_shapes", group)
    return {name: tuple(shape) for name, shape in group.items()}


def _is_table(values: Any, kind: type) -> bool:
    return isinstance(values, Mapping) and all(
        isinstance(key, str) and isinstance(value, kind) for key, value in values.items()
    )


def _tied(module: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names of one and the same tensor: without ZeRO the file does not say which are tied."""
    aliases: dict[str, str] = {}
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in module.items():
        if tensor.numel():
            stored = first.setdefault((tensor.data_ptr(), tensor.shape), name)
            if stored != name:
                aliases[name] = stored
    return aliases
