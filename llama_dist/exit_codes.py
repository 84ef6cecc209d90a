"""What a process of a run says by its exit code. The supervisor decides on these and on progress alone."""

from enum import IntEnum


class ExitCode(IntEnum):
    """One meaning per code; 70 to 78 follow BSD `sysexits.h`, 143 is 128 + SIGTERM."""

    DONE = 0
    """The run reached its last step."""

    OUR_BUG = 70
    """An error that no input should cause: report it. Never retried."""

    STORAGE = 74
    """A disk or store failed, or no checkpoint is good. Never retried: a person must look."""

    RETRY = 75
    """A peer or the network was lost: start again from the newest checkpoint."""

    BAD_INPUT = 78
    """The config or the data cannot work. Never retried."""

    STOPPED = 143
    """Asked to stop; saved first."""
