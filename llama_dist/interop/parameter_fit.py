"""Compares the parameters of a source with those of the run's model, by name and shape. Reads no file."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch

from llama_dist.config import ModelConfig
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.hf_names import to_hf
from llama_dist.model import Llama

_MOST_FAULTS_TOLD = 12


def shapes_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the run's model, by our names."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in Llama(model).named_parameters()}


def check_parameters(
    found: Mapping[str, tuple[int, ...]],
    model: ModelConfig,
    our_name: Callable[[str], str | None],
    place: Path,
    *,
    spare: Collection[str] = (),
) -> dict[str, str]:
    """Answer the source's name of every parameter of the run's model.

    `found` has the shapes by the source's names, `our_name` turns one of them into ours, `spare` are names of ours that
    may be there beyond the model's. Raises ExchangeError with all that is missing, doubled, too much or of another
    shape, both sides told.
    """
    needed = shapes_of(model)
    theirs_of: dict[str, str] = {}
    faults = []
    for theirs in sorted(found):
        ours = our_name(theirs)
        if ours is None or ours not in needed:
            if ours is None or ours not in spare:
                faults.append(f"{theirs}: the run's model has no such parameter")
        elif ours in theirs_of:
            faults.append(f"{theirs}: is {ours}, and so is {theirs_of[ours]}")
        else:
            theirs_of[ours] = theirs
    for name, shape in needed.items():
        if name not in theirs_of:
            faults.append(f"{to_hf(name) or name}: is missing")
        elif found[theirs_of[name]] != shape:
            faults.append(f"{theirs_of[name]}: has shape {found[theirs_of[name]]}, the run's model {shape}")
    if faults:
        told = (
            faults[:_MOST_FAULTS_TOLD]
            + [f"and {len(faults) - _MOST_FAULTS_TOLD} more"][: len(faults) > _MOST_FAULTS_TOLD]
        )
        raise ExchangeError(f"{place}: the tensors do not fit the run's model:\n  " + "\n  ".join(told))
    return theirs_of
