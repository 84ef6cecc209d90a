"""The place of a run's first checkpoint, which `checkpoint import` makes as a launch would, under the run's lock."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from launcher.checkpoint_link import check_place, link_checkpoints, unlink_if_empty
from launcher.errors import RunDirectoryError
from launcher.execute import create_run_directory, disk_faults_told
from launcher.run_lock import lock_run
from launcher.saved_steps import step_known_as_saved
from llama_dist.config import RunConfig, RunDirectory


@contextmanager
def hold_for_import(run: RunDirectory, config: RunConfig, *, tell: Callable[[str], None]) -> Iterator[None]:
    """Make the run's directory and the link to its checkpoints, and hold the run's lock.

    Raises LiveRunError where the run is live, ConfigError for nodes' own disks without a directory, RunDirectoryError
    where the run has saved before (its checkpoints are not mounted) or the disk refuses.
    """
    check_place(config.checkpoint)
    create_run_directory(run)
    with ExitStack() as held:
        with disk_faults_told(run):
            held.enter_context(lock_run(run, config.supervision.lease_seconds))
            _refuse_lost_checkpoints(run)
            told = link_checkpoints(run, config.checkpoint)
        if told:
            tell(f"run `{run.name}`: {told}")
        try:
            yield
        except BaseException:
            unlink_if_empty(run)
            raise


def _refuse_lost_checkpoints(run: RunDirectory) -> None:
    step = step_known_as_saved(run)
    if step is not None:
        raise RunDirectoryError(
            f"{run.checkpoints}: run `{run.name}` has saved a checkpoint up to step {step}: mount or restore the "
            "directory, or give the run another name"
        )
