"""Whether the files of a checkpoint are what its manifest says: size and checksum first, and only then what they hold.
And which of several is the newest that is.

Imports no torch, so that asking takes a moment.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from llama_dist.checkpoint.manifest import (
    CheckpointError,
    FileRecord,
    list_candidates,
    read_manifest,
    step_directory,
)
from llama_dist.checkpoint.regular_file import hash_descriptor, open_regular
from llama_dist.checkpoint.tensor_file import read_starts


def verify_file(directory: Path, record: FileRecord, keys: Collection[tuple[str, int]] = ()) -> str | None:
    """Return what is wrong with one file, or None. Reads it whole; only then looks whether it has `keys`."""
    path = directory / record.name
    try:
        with open_regular(path) as (descriptor, num_bytes):
            if num_bytes != record.num_bytes:
                return f"{path}: {num_bytes} bytes, the manifest says {record.num_bytes}"
            found = hash_descriptor(descriptor)
            if found != record.checksum:
                return f"{path}: checksum {found}, the manifest says {record.checksum}"
            if keys:
                read_starts(descriptor, num_bytes, keys)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    except ValueError as error:
        return f"{path}: {error}"
    return None


def verify_checkpoint(directory: Path) -> list[str]:
    """Return what is wrong with a whole checkpoint; nothing, if it is good."""
    try:
        manifest = read_manifest(directory)
    except CheckpointError as error:
        return [str(error)]
    keys = manifest.keys_of(range(len(manifest.files)))
    return [
        fault for file, record in enumerate(manifest.files) if (fault := verify_file(directory, record, keys[file]))
    ]


def find_newest_good(checkpoints: Path) -> Path:
    """Directory of the newest checkpoint whose files are all as its manifest says.

    Raises CheckpointError with the fault of each one, if none is good.
    """
    faults = []
    for step in reversed(list_candidates(checkpoints)):
        directory = step_directory(checkpoints, step)
        found = verify_checkpoint(directory)
        if not found:
            return directory
        faults += found
    raise none_good(checkpoints, faults)


def none_good(checkpoints: Path, faults: Sequence[str]) -> CheckpointError:
    """The error that ends a run whose checkpoints are all damaged."""
    listed = "\n  ".join(faults) or "there is none"
    return CheckpointError(
        f"{checkpoints}: no checkpoint is good:\n  {listed}\nRestore one from a copy, or start again with --fresh."
    )
