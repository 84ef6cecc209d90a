"""Leaves nothing of a new run whose launch was refused. Touches no run that has begun, and no other launch's files."""

import contextlib
from collections.abc import Iterator

from launcher.console import Console
from llama_dist.config import ConfigError, RunDirectory


@contextlib.contextmanager
def nothing_left_if_refused(run: RunDirectory, *, is_new: bool) -> Iterator[None]:
    """Take a new run's directory away where the block refuses the launch and has written nothing of the run.

    For the holder of the run's lock and lease: both lie in the directory, and go with it. Another launch that holds
    the lock of a directory that is gone finds that it cannot write there.
    """
    try:
        yield
    except ConfigError:
        if is_new:
            _remove(run)
        raise


@contextlib.contextmanager
def interruption_told(console: Console) -> Iterator[None]:
    """Say that Ctrl-C inside the block found no run yet: the process then ends with 130, not as a stopped run does."""
    try:
        yield
    except KeyboardInterrupt:
        console.say("interrupted before the run began")
        raise


def _remove(run: RunDirectory) -> None:
    with contextlib.suppress(OSError):  # another launch has begun something there
        if {path.name for path in run.path.iterdir()} <= {run.lock.name, run.leases.name}:
            for lease in run.leases.iterdir():
                lease.unlink()
            run.leases.rmdir()
            run.lock.unlink()
            run.path.rmdir()
