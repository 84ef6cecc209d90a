"""Which run of the tracker belongs to a run directory: a small file, so that every launch continues the same one."""

import json
import os
import secrets

from llama_dist.config import RunDirectory
from llama_dist.metrics.tracker import RunIdentity


def load_identity(directory: RunDirectory) -> RunIdentity:
    """Read the identity; where there is none, make one and write it before anything is created in the tracker."""
    try:
        values = json.loads(directory.tracking_identity.read_text(encoding="utf-8"))
        key, run_id = str(values["key"]), values["run_id"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        key, run_id = secrets.token_hex(16), None
    place = str(directory.path.resolve())
    identity = RunIdentity(name=directory.path.resolve().name, directory=place, key=key, run_id=run_id)
    if run_id is None:
        save_identity(directory, identity)
    return identity


def save_identity(directory: RunDirectory, identity: RunIdentity) -> None:
    """Replace the file in one step, readable by its owner alone."""
    path = directory.tracking_identity
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_suffix(".json.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"key": identity.key, "run_id": identity.run_id}, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
