"""Takes from older attempts what their unfinished saves would need to become checkpoints, and tidies up after them.

A process can be frozen between its look at the fence and the rename that follows. A newer attempt therefore removes,
before it looks for the newest checkpoint, what that rename would move: then it fails whenever it comes.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from llama_dist.checkpoint.disk import remove_entry
from llama_dist.checkpoint.manifest import is_step_directory, revoke_manifest
from llama_dist.runtime.fence import Fence

_STAGING = re.compile(r"^\.staging_(\d{8,})(?:_(\d{4,}))?$")  # those of an earlier version name no attempt
_REVOKED = ".removing_"  # what `finish_removals` of `retention.py` looks for as well


def staging_directory(checkpoints: Path, step: int, attempt: int) -> Path:
    """Where an attempt writes the checkpoint of `step`; no other attempt writes there."""
    return checkpoints / f".staging_{step:08d}_{attempt:04d}"


def revoke_unfinished(checkpoints: Path, fence: Fence) -> None:
    """On the leader of each disk, before the checkpoints are looked at: no save of an older attempt can end any more.

    What the disk refuses is passed over: a save of this attempt will tell it. Raises FencedError in an old attempt.
    """
    fence.check()
    with contextlib.suppress(OSError):
        for staging in list(_stagings_before(checkpoints, fence.attempt)):
            aside = checkpoints / f"{_REVOKED}{staging.name[1:]}"
            with contextlib.suppress(OSError):
                staging.rename(aside)  # at once; what it holds takes longer
                shutil.rmtree(aside, ignore_errors=True)
        for directory in checkpoints.glob("step_*"):
            if is_step_directory(directory):
                with contextlib.suppress(OSError):
                    revoke_manifest(directory)


def remove_leftovers(checkpoints: Path, attempt: int) -> None:
    """Remove what saves that were cut off have left, but nothing of an attempt after this one."""
    for leftover in (*_stagings_before(checkpoints, attempt + 1), *checkpoints.glob(".replaced_*")):
        remove_entry(leftover)


def _stagings_before(checkpoints: Path, attempt: int) -> Iterator[Path]:
    for path in checkpoints.glob(".staging_*"):
        match = _STAGING.match(path.name)
        if match and int(match[2] or 0) < attempt:
            yield path
