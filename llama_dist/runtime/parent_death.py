"""Ties a rank's life to its agent's: a rank that outlives the agent would hold memory and ports unseen."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, however that happens. Elsewhere it does nothing."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent ended before the request was in place: the signal will not come any more.
        os.kill(os.getpid(), signal.SIGKILL)
