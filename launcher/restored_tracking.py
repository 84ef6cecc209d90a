"""Which run of the tracker a run continues, where its own note of that was lost: every checkpoint carries a copy."""

import contextlib
import json
import os

from llama_dist.checkpoint.manifest import CheckpointError, list_steps, read_manifest, step_directory
from llama_dist.config import RunDirectory


def restore_tracking(run: RunDirectory) -> bool:
    """Write the note back from the newest manifest that has it; answers whether it did.

    Not from another run's checkpoints: a run that begins with a copy of them is a run of its own. Raises OSError.
    """
    if run.tracking_identity.exists():
        return False
    for step in reversed(list_steps(run.checkpoints)):
        with contextlib.suppress(CheckpointError):  # a damaged one is passed over here as it will be by the ranks
            manifest = read_manifest(step_directory(run.checkpoints, step))
            if manifest.tracking and manifest.config.get("name") == run.name:
                _write(run, manifest.tracking)
                return True
    return False


def _write(run: RunDirectory, tracking: dict[str, object]) -> None:
    path = run.tracking_identity
    path.parent.mkdir(exist_ok=True, mode=0o700)
    beside = path.with_suffix(".json.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(tracking, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
