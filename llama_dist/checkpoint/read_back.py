"""Reads a new checkpoint back from the disk, before an older one gives way to it.

What does not read back is no checkpoint: its manifest is taken away again.
"""

import os
from pathlib import Path

from llama_dist.checkpoint.manifest import CheckpointError, FileRecord, Manifest, withdraw_manifest
from llama_dist.checkpoint.regular_file import open_regular
from llama_dist.checkpoint.save_group import SaveGroup, attempt
from llama_dist.checkpoint.verify import verify_file


class NotReadBackError(CheckpointError):
    """The disk does not give back what was written. Raised on every rank alike; the older checkpoints stand."""


def read_back(directory: Path, manifest: Manifest, group: SaveGroup, *, is_shared: bool) -> None:
    """Collective. Each rank reads one rank's file, the leaders the tokenizer too. Raises NotReadBackError.

    Over one disk it is the next rank's file, which another host may have written: of its own, a host may only find in
    memory what the disk lacks. The kernel is told to forget it first, which it does as far as it can.
    """
    world_size = group.world.world_size
    number = (group.rank + 1) % world_size if is_shared else group.rank
    mine = [manifest.files[number], *(manifest.files[world_size:] if group.is_leader else ())]
    faults = [fault for record in mine if (fault := _fault(directory, record))]
    told = sorted({fault for of_rank in group.gather(faults) for fault in of_rank})
    if not told:
        return
    group.gather(attempt(withdraw_manifest, directory) if group.is_leader else None)
    raise NotReadBackError(
        f"the checkpoint of step {manifest.step} was written, but does not read back: {'; '.join(told)}: have the disk "
        "looked at; the older ones stand"
    )


def _fault(directory: Path, record: FileRecord) -> str | None:
    try:
        with open_regular(directory / record.name) as (descriptor, _):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        return f"{directory / record.name}: cannot be read: {error.strerror}"
    return verify_file(directory, record)
