"""Finds the files of a checkpoint that DeepSpeed's `save_checkpoint` wrote, by their names alone. Opens none but
`latest`.

Names as of DeepSpeed 0.19.8, runtime/engine.py: `_get_ckpt_name`, `_get_rank_zero_ckpt_name`, `_get_expert_ckpt_name`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from llama_dist.interop.errors import ExchangeError

_STATE = re.compile(r"(?:(?:bf16_|fp16_)?zero_pp_rank_\d+_)?mp_rank_(\d+)_(?:model|optim)_states\.pt")
_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt")
_PIPELINE_LAYER = re.compile(r"layer_\d+-.*model_states\.pt")
_EXPERT = re.compile(r"(?:layer_\d+_)?expert_\d+_.*\.pt|expp_rank_.*\.pt")
_REPLICATED_MODEL, _PARTITIONED_MODEL = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"
_LONGEST_TAG_BYTES = 255
_THE_OTHER_WAY = (
    "only data parallel ones are read: save the model as Hugging Face's safetensors with the program that trained it, "
    "and import those"
)


@dataclass(frozen=True)
class DeepSpeedFiles:
    """The files of one tag."""

    tag: Path
    optimizer: dict[int, Path]
    """Optimizer state by data parallel rank; empty where it was not saved or is gone."""

    def model(self, zero_stage: int | None) -> Path:
        """The file with names and shapes, without optimizer state (None) the one with the weights.

        Raises ExchangeError where it is missing.
        """
        replicated, partitioned = self.tag / _REPLICATED_MODEL, self.tag / _PARTITIONED_MODEL
        if zero_stage is None and partitioned.is_file() and not replicated.is_file():
            raise ExchangeError(
                f"{self.tag}: has no ..._optim_states.pt: at ZeRO-3 they hold the weights: copy them from all nodes"
            )
        path = partitioned if zero_stage == 3 else replicated
        if not path.is_file():
            raise ExchangeError(f"{path}: is missing: it holds the names of the parameters: copy it here")
        return path


def is_deepspeed(source: Path) -> bool:
    """Whether the folder holds what DeepSpeed writes: a checkpoint, or the files of one tag."""
    names = [path.name for path in source.iterdir()] if source.is_dir() else []
    return any(name == "latest" or name.startswith("global_step") or _is_state(name) for name in names)


def find_files(source: Path) -> DeepSpeedFiles:
    """The files of the tag that `latest` names, or of the tag that `source` is.

    Raises ExchangeError for a tag that is no plain name or not there, and for a model that was cut otherwise than by
    ZeRO: tensor parallel, a pipeline, experts.
    """
    tag = _find_tag(source)
    names = sorted(path.name for path in tag.iterdir())
    _refuse_other_cuts(tag, names)
    optimizer: dict[int, Path] = {}
    for name in names:
        match = _OPTIMIZER.fullmatch(name)
        if match and int(match[1]) in optimizer:
            raise ExchangeError(
                f"{tag}: {name} and {optimizer[int(match[1])].name} are of one rank: two saves are mixed here: remove "
                "the files of one"
            )
        if match:
            optimizer[int(match[1])] = tag / name
    if not optimizer and (tag / "zero").is_dir():
        raise ExchangeError(f"{tag}: is a universal checkpoint: name the checkpoint that it was made from")
    return DeepSpeedFiles(tag, optimizer)


def _find_tag(source: Path) -> Path:
    latest = source / "latest"
    if any(_is_state(path.name) for path in source.iterdir()):
        return source
    if latest.is_file():
        tag = source / _read_tag(latest)
        if not tag.is_dir():
            raise ExchangeError(f"{latest}: names {tag.name}, which is not there: name the folder of a tag itself")
        return tag
    tags = sorted(path for path in source.glob("global_step*") if path.is_dir())
    if len(tags) != 1:
        raise ExchangeError(
            f"{source}: has no file `latest` and {len(tags)} folders global_step*: name the folder of a tag itself"
        )
    return tags[0]


def _read_tag(latest: Path) -> str:
    with latest.open("rb") as stream:
        content = stream.read(_LONGEST_TAG_BYTES + 2)
    name = content.decode("utf-8", "replace").strip()
    is_plain = name.isprintable() and name not in {"", ".", ".."} and not {"/", "\\"} & set(name)
    if not is_plain or len(content) > _LONGEST_TAG_BYTES:
        raise ExchangeError(f"{latest}: holds {name[:80]!r}: needs the plain name of a folder beside it")
    return name


def _is_state(name: str) -> bool:
    return _STATE.fullmatch(name) is not None


def _refuse_other_cuts(tag: Path, names: list[str]) -> None:
    for name in names:
        state = _STATE.fullmatch(name)
        if state and int(state[1]) > 0:
            raise ExchangeError(f"{tag / name}: is of a tensor parallel model: {_THE_OTHER_WAY}")
        if _PIPELINE_LAYER.fullmatch(name):
            raise ExchangeError(f"{tag / name}: is of a pipeline: {_THE_OTHER_WAY}")
        if _EXPERT.fullmatch(name):
            raise ExchangeError(f"{tag / name}: is of a mixture of experts, which our model has not")
