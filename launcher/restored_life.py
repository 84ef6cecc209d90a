"""Which life a run goes on in, where its own note of that was lost or it never had one."""

import contextlib

from llama_dist.checkpoint.manifest import CheckpointError, list_steps, read_manifest, step_directory
from llama_dist.config import RunDirectory
from llama_dist.config.run_life import begin_life, continue_life, is_life, read_life


def settle_life(run: RunDirectory) -> None:
    """Give the run a life where it has none: that of its newest readable checkpoint, or else a new one. Raises OSError.

    Not that of another run's checkpoint: a run that begins with a copy of one is a run of its own.
    """
    if read_life(run):
        return
    for step in reversed(list_steps(run.checkpoints)):
        with contextlib.suppress(CheckpointError):  # a damaged one is passed over here as it will be by the ranks
            manifest = read_manifest(step_directory(run.checkpoints, step))
            if is_life(manifest.life) and manifest.config.get("name") == run.name:
                continue_life(run, manifest.life)
                return
            break
    begin_life(run)
