"""Lets a rank say where its threads stand when it is asked from outside (SIGUSR2). Judges nothing."""

import contextlib
import faulthandler
import os
import signal
from pathlib import Path

STACKS_SIGNAL = signal.SIGUSR2


def dump_stacks_on_signal(path: Path) -> None:
    """From now on, append the stacks of all threads to `path` at each SIGUSR2.

    The handler is C, and needs neither the interpreter's lock nor the main thread: a rank that is stuck in native code
    answers as well. Where the file cannot be opened the rank stays silent: it must not end the training.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # faulthandler holds on to the number, so the descriptor stays open as long as the process.
        faulthandler.register(STACKS_SIGNAL, file=descriptor, all_threads=True, chain=False)
