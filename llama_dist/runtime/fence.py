"""Keeps an attempt that was stopped, and comes back after a newer one has begun, from writing anything.

A process that was frozen, or cut off from the others, cannot know that the run went on without it. So it looks before
each write: a newer attempt has a directory, an attempt that is over has its `exit.json`. Holds no lock, ends nothing.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import ReportedError
from llama_dist.config import RunDirectory


class FencedError(ReportedError):
    """This process belongs to an attempt that is over. It has written nothing since, and must end."""

    exit_code = 75


@dataclass(frozen=True)
class Fence:
    """What stands between one attempt and the files of its run. Without a run it lets everything pass."""

    run: RunDirectory | None
    attempt: int

    def check(self) -> None:
        """Raise FencedError if the attempt may write no more. As late as can be before a write."""
        because = self.closed_because()
        if because:
            raise FencedError(because)

    def is_closed(self) -> bool:
        """Whether the attempt may write no more."""
        return bool(self.closed_because())

    def closed_because(self) -> str:
        """Why the attempt may write no more, naming both attempts; empty while it may."""
        if self.run is None:
            return ""
        ours, newer = self.run.attempt(self.attempt), self.run.attempt(self.attempt + 1)
        end = self.run.attempt_end(self.attempt)
        if _is_there(newer):
            over = f"attempt {self.attempt + 1} has begun"
        elif _is_there(end):
            over = f"it was recorded as ended in {end}"
        else:
            return ""
        return (
            f"this process belongs to attempt {self.attempt} of run `{self.run.name}`, and {over}: it ends without "
            f"writing anything more; see {newer if _is_there(newer) else ours}"
        )


NO_FENCE = Fence(None, 0)
"""For what is written outside of any run's attempts."""


def _is_there(path: Path) -> bool:
    """Whether there is something of that name, by the file server's word.

    A plain stat may be answered from a network file system's cache for a minute; to open the directory first makes the
    client ask (close-to-open consistency, nfs(5)). A disk that does not answer says nothing: the write itself meets it.
    """
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    finally:
        os.close(directory)
    return True
