"""The file by which a person asks a run for a checkpoint: written by `llama-dist checkpoint now`, taken by rank 0.

A file, since it reaches a run from any host that sees its directory.
"""

import contextlib
import os
from pathlib import Path

from llama_dist.runtime.fence import NO_FENCE, Fence


class SaveRequest:
    """One look at the file a step: cheap beside a step, and no thread."""

    def __init__(self, path: Path, fence: Fence = NO_FENCE) -> None:
        self._path, self._fence = path, fence

    def take(self) -> bool:
        """Answer whether a checkpoint was asked for since the last call, and remove the request.

        Raises FencedError in an old attempt: it is a newer one that was asked.
        """
        if not os.path.lexists(self._path):
            return False
        self._fence.check()
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False
