"""Checkpoints as a person asks for them: which there are, who wrote them, whether they are whole. Changes nothing."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_dist.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointError,
    has_any_step,
    list_candidates,
    read_manifest,
    step_directory,
    step_of_name,
)
from llama_dist.checkpoint.upload import is_uploaded
from llama_dist.checkpoint.verify import verify_checkpoint


@dataclass(frozen=True)
class Description:
    """One checkpoint, or why its manifest cannot be read."""

    directory: str
    step: int
    tokens_seen: int | None = None
    num_bytes: int | None = None
    world: dict[str, int] | None = None
    kind: str | None = None
    held_out_loss: float | None = None
    is_uploaded: bool = False
    written: float | None = None
    """Unix time at which the manifest was written."""

    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_line(self) -> str:
        """One line for a person."""
        if self.fault or self.world is None:
            return f"{self.directory}  DAMAGED: {self.fault}"
        topology = ", ".join(f"{key} {value}" for key, value in self.world.items())
        loss = "" if self.held_out_loss is None else f", held-out loss {self.held_out_loss:.4f}"
        return (
            f"{self.directory}  {self.kind}, {self.tokens_seen:,} tokens seen, {self.num_bytes:,} bytes{loss}, "
            f"written by {topology}{', uploaded' if self.is_uploaded else ''}"
        )


def describe_all(run: Path) -> list[Description]:
    """Describe the checkpoints of a run directory, oldest first. Raises CheckpointError where there is none."""
    checkpoints = _checkpoints_of(run)
    return [_describe(step_directory(checkpoints, step), step) for step in list_candidates(checkpoints)]


def verify_all(path: Path) -> Iterator[str]:
    """Verify one checkpoint, or all of a run; yield a line for each. Raises CheckpointError after the last, if any
    is damaged."""
    directories = [path]
    if step_of_name(path.name) is None and not (path / MANIFEST_NAME).is_file():
        checkpoints = _checkpoints_of(path)
        directories = [step_directory(checkpoints, step) for step in list_candidates(checkpoints)]
    faults = []
    for directory in directories:
        found = verify_checkpoint(directory)
        faults += found
        yield f"{directory}  {'DAMAGED' if found else 'good'}"
    if faults:
        raise CheckpointError("damaged checkpoints:\n  " + "\n  ".join(faults))


def _checkpoints_of(run: Path) -> Path:
    checkpoints = run / "checkpoints"
    if not has_any_step(checkpoints):
        raise CheckpointError(f"{checkpoints}: holds no checkpoint: is {run} a run directory?")
    return checkpoints


def _describe(directory: Path, step: int) -> Description:
    try:
        manifest = read_manifest(directory)
    except CheckpointError as error:
        return Description(str(directory), step, fault=str(error))
    num_bytes = sum(file.num_bytes for file in manifest.files)
    return Description(
        str(directory),
        step,
        manifest.tokens_seen,
        num_bytes,
        manifest.world,
        kind=manifest.kind,
        held_out_loss=manifest.held_out_loss,
        is_uploaded=is_uploaded(directory),
        written=(directory / MANIFEST_NAME).stat().st_mtime,
    )
