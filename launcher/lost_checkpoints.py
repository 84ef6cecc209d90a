"""What a launch does where a run's checkpoints are gone: fetches them from its store, or refuses to start."""

import subprocess
import sys

from launcher.console import Console
from launcher.errors import RunDirectoryError
from launcher.saved_steps import step_known_as_saved
from llama_dist.checkpoint.manifest import has_any_step, list_steps
from llama_dist.config import RunDirectory
from llama_dist.config.run_life import note_saved, read_saved


def note_checkpoints(run: RunDirectory) -> None:
    """Write down that there are checkpoints, where no rank has: they came from elsewhere. Raises OSError."""
    steps, saved = list_steps(run.checkpoints), read_saved(run)
    if steps and (saved is None or saved.step is None):
        note_saved(run, steps[-1])


def bring_back_checkpoints(run: RunDirectory, store_url: str | None, console: Console) -> None:
    """Where the run saved checkpoints and none is there (a volume not mounted, a slip of rm), fetch the newest one.

    Raises RunDirectoryError if it has no store, or none can be fetched: it must not start from zero in silence.
    """
    if not run.config.is_file() or has_any_step(run.checkpoints):
        return
    step = step_known_as_saved(run)
    if step is None:
        return
    if store_url:
        # In a process of its own: the launcher itself loads no store's package.
        command = [sys.executable, "-m", "launcher", "checkpoint", "fetch", str(run.path), "--store", store_url]
        fetched = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if fetched.returncode == 0:
            console.say(f"run `{run.name}`: its checkpoints were gone; fetched {fetched.stdout.strip()}")
            return
    elsewhere = f", nor could one be fetched from {store_url}" if store_url else ""
    raise RunDirectoryError(
        f"{run.checkpoints}: holds no checkpoint, but run `{run.name}` has saved one up to step {step}{elsewhere}: "
        "mount or restore the directory, or start again at step 0 with --fresh"
    )
