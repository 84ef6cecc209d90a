"""Whether a checkpoint has the parameters of a model, and the tokenizer that its manifest names. Reads no file."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from llama_dist.checkpoint.manifest import TOKENIZER_NAME, CheckpointError, Manifest

_MOST_FAULTS_TOLD = 12


def check_shapes(directory: Path, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError, both sides told, unless the checkpoint has these parameters and no others."""
    faults = [fault for name in sorted(shapes) if (fault := mismatch(name, shapes[name], manifest))]
    faults += superfluous(shapes.keys(), manifest)
    if faults:
        raise CheckpointError(f"{directory} does not fit the model of its own config:\n  " + "\n  ".join(cut(faults)))


def mismatch(name: str, shape: tuple[int, ...], manifest: Manifest) -> str | None:
    """What is wrong with one parameter of the model, or None."""
    record = manifest.tensors.get(name)
    if record is None:
        return f"{name}: the model has it, the checkpoint does not"
    if record.shape != shape:
        return f"{name}: the model has shape {shape}, the checkpoint {record.shape}"
    return None


def superfluous(held: Set[str], manifest: Manifest) -> list[str]:
    """What the checkpoint has beyond the model's parameters."""
    return [f"{name}: the checkpoint has it, the model does not" for name in sorted(manifest.tensors.keys() - held)]


def cut(faults: Sequence[str]) -> list[str]:
    """The first of many lines, and how many follow."""
    more = len(faults) - _MOST_FAULTS_TOLD
    return list(faults) if more <= 0 else [*faults[:_MOST_FAULTS_TOLD], f"and {more} more"]


def has_tokenizer(manifest: Manifest) -> bool:
    """Whether the checkpoint has a tokenizer of its own: a file of that name that no checksum speaks for is none."""
    return any(record.name == TOKENIZER_NAME for record in manifest.files)
