"""Finds the newest good checkpoint and loads it, whatever topology wrote it. Verifies before it parses.

What a rank finds wrong, all ranks learn, so that they go on, or end, together.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from llama_dist.checkpoint.manifest import CheckpointError, Manifest, read_manifest
from llama_dist.checkpoint.newest_good import Found, agree_on_newest_good, gather_faults
from llama_dist.checkpoint.node_copies import carry_out, close_directory, open_directory
from llama_dist.checkpoint.placement import describe_copy, plan_copies
from llama_dist.checkpoint.range_reader import Wanted, files_needed, read_ranges
from llama_dist.checkpoint.verify import find_newest_good, verify_checkpoint
from llama_dist.parallel.engine import STATES, Engine, StatePartition
from llama_dist.runtime.process_group import all_gather_json

__all__ = ["Found", "agree_on_newest_good", "find_newest_good", "load_into", "load_weights"]

_MOST_FAULTS_TOLD = 12


def load_into(
    engine: Engine,
    found: Found,
    *,
    model_config: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Collective. Fill the engine's partitions from the ranges they need, then refresh its working weights.

    Where the disks are the nodes' own, what a node lacks is copied to it first, and `tell` is told. Moments that the
    checkpoint lacks begin at zero. Raises CheckpointError on every rank: both sides printed, if a parameter is absent
    or has another shape, and the fields of `model_config` that differ; or the rank and file that could not be read.
    """
    partitions = list(engine.partitions())
    _check_fit(partitions, found, model_config or {})
    _bring_files(partitions, found, tell)
    wanted = [
        Wanted(one.name, state, one.offset, target) for one in partitions for state, target in one.tensors.items()
    ]
    _together(found, "cannot be loaded", lambda: read_ranges(found.directory, found.manifest, wanted))
    engine.restore(_scalars(found.manifest))


def load_weights(directory: Path) -> tuple[Manifest, dict[str, torch.Tensor]]:
    """Verify one checkpoint and return its manifest and whole fp32 weights by name. One process, no group."""
    faults = verify_checkpoint(directory)
    if faults:
        raise CheckpointError("the checkpoint is damaged:\n  " + "\n  ".join(faults))
    manifest = read_manifest(directory)
    flat = {name: torch.empty(record.num_elements) for name, record in manifest.tensors.items()}
    read_ranges(directory, manifest, [Wanted(name, STATES[0], 0, target) for name, target in flat.items()])
    return manifest, {name: tensor.view(manifest.tensors[name].shape) for name, tensor in flat.items()}


def _check_fit(partitions: list[StatePartition], found: Found, model_config: Mapping[str, Any]) -> None:
    """Collective. Raise CheckpointError unless the checkpoint has the model's parameters and no others."""
    manifest = found.manifest
    mismatches = [fault for one in partitions if (fault := _mismatch(one, manifest))]
    told: list[Any] = all_gather_json([mismatches, [one.name for one in partitions]])
    held = {name for _, names in told for name in names}
    faults = sorted({fault for of_rank, _ in told for fault in of_rank})
    faults += [f"{name}: the checkpoint has it, the model does not" for name in sorted(manifest.tensors.keys() - held)]
    if faults:
        faults = _cut(faults) + _differing_fields(model_config, manifest.config.get("model"))
        raise CheckpointError(f"{found.directory} does not fit this model:\n  " + "\n  ".join(faults))


def _mismatch(partition: StatePartition, manifest: Manifest) -> str | None:
    record = manifest.tensors.get(partition.name)
    if record is None:
        return f"{partition.name}: the model has it, the checkpoint does not"
    if record.shape != partition.shape:
        return f"{partition.name}: the model has shape {partition.shape}, the checkpoint {record.shape}"
    return None


def _differing_fields(here: Mapping[str, Any], there: Any) -> list[str]:
    there = there if isinstance(there, Mapping) else {}
    return [
        f"model.{field} differs: {here[field]!r} here, {there[field]!r} in the checkpoint"
        for field in sorted(here.keys() & there.keys())
        if here[field] != there[field]
    ]


def _scalars(manifest: Manifest) -> dict[str, float]:
    """The scalars to restore; an optimizer whose moments begin at zero has done no steps."""
    has_moments = set(STATES) <= set(manifest.states)
    return {"optimizer_steps": 0.0} | manifest.scalars | ({} if has_moments else {"optimizer_steps": 0.0})


def _bring_files(partitions: Iterable[StatePartition], found: Found, tell: Callable[[str], None]) -> None:
    """Collective. Copy between the nodes what their ranks need and what every node keeps: manifest and tokenizer."""
    place, manifest = found.placement, found.manifest
    if len(place.nodes.leaders) == 1:
        return
    holds_no_tensor = set(range(len(manifest.files))) - manifest.files_with_tensors()
    needed_here = files_needed(manifest, ((one.name, one.offset, one.length) for one in partitions))
    needed: list[set[int]] = [set(holds_no_tensor) for _ in place.nodes.leaders]
    for rank, files in enumerate(all_gather_json(sorted(needed_here))):
        needed[place.nodes.node_of_rank[rank]].update(files)
    copies = plan_copies(place.nodes, manifest.files, place.intact, needed)
    for copy in copies:
        tell(describe_copy(copy, place.nodes, manifest.files))

    rank = torch.distributed.get_rank()
    node = place.nodes.node_of_rank[rank]
    writes_manifest = rank in place.nodes.leaders and node not in place.nodes_with_manifest
    directory = found.directory
    opened = open_directory(directory, place.manifest_content) if writes_manifest else None
    _raise_together(found, "cannot be copied", [opened])
    _raise_together(found, "cannot be copied", carry_out(copies, directory, manifest.files, rank))
    closed = close_directory(directory) if writes_manifest else None
    _raise_together(found, "cannot be copied", [closed])


def _together(found: Found, what: str, action: Callable[[], None]) -> None:
    """Collective. Do it on every rank. Raises CheckpointError on all of them if it failed on one."""
    fault = None
    try:
        action()
    except CheckpointError as error:
        fault = str(error)
    _raise_together(found, what, [fault])


def _raise_together(found: Found, what: str, faults: Iterable[str | None]) -> None:
    everywhere = gather_faults(found.placement.nodes, [fault for fault in faults if fault])
    if everywhere:
        raise CheckpointError(f"{found.directory} {what}:\n  " + "\n  ".join(_cut(everywhere)))


def _cut(faults: list[str]) -> list[str]:
    more = len(faults) - _MOST_FAULTS_TOLD
    return faults if more <= 0 else [*faults[:_MOST_FAULTS_TOLD], f"and {more} more"]
