"""Where a run's checkpoints lie when `checkpoint.directory` names a place: a link in the run directory leads there.

The link is made when the run is opened and never moved: a checkpoint that was not looked for would be a start from
zero. The place itself is made here and, where nodes have disks of their own, by the ranks on theirs.
"""

import contextlib
import os
import secrets
from pathlib import Path

from llama_dist.config import CheckpointConfig, ConfigError, RunDirectory


def check_place(config: CheckpointConfig) -> None:
    """Raise ConfigError for nodes' own disks without a directory."""
    if not config.shared and config.directory is None:
        raise ConfigError(
            "checkpoint.shared is false, but checkpoint.directory is not set: name a directory on the nodes' own disks"
        )


def link_checkpoints(run: RunDirectory, config: CheckpointConfig) -> str | None:
    """Make the link of a run that has no checkpoints yet; answers what the user should know of it, or None.

    Raises ConfigError for nodes' own disks without a directory, OSError where the place cannot be made.
    """
    check_place(config)
    here = run.checkpoints
    configured = Path(config.directory).absolute() if config.directory else None
    if configured is None or (here.is_symlink() and here.readlink().parent == configured):
        return None
    if os.path.lexists(here):
        stays = here.readlink() if here.is_symlink() else here
        return f"its checkpoints stay in {stays}: checkpoint.directory ({config.directory}) holds for new runs"
    # A name that no other run has: two runs directories may hold runs of one name.
    target = configured / f"{run.name}-{secrets.token_hex(4)}"
    target.mkdir(parents=True, mode=0o700)
    here.symlink_to(target)
    return f"its checkpoints lie in {target}"


def unlink_if_empty(run: RunDirectory) -> None:
    """Take the link away, with the place that it leads to, where nothing lies there."""
    here = run.checkpoints
    if here.is_symlink():
        with contextlib.suppress(OSError):
            here.resolve().rmdir()
            here.unlink()
