"""Whether the files of a checkpoint are what its manifest says: size and checksum first, and only then what they hold.

Imports no torch, so that asking takes a moment.
"""

from collections.abc import Collection
from pathlib import Path

from llama_dist.checkpoint.manifest import CheckpointError, FileRecord, read_manifest
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
    pairs = zip(manifest.files, manifest.keys_by_file(), strict=True)
    return [fault for record, keys in pairs if (fault := verify_file(directory, record, keys))]
