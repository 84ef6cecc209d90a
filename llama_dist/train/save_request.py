"""The file by which a person asks a run for a checkpoint: written by `llama-dist checkpoint now`, taken by rank 0.

A file, since it reaches a run from any host that sees its directory.
"""

import contextlib
from pathlib import Path


class SaveRequest:
    """One look at the file a step: cheap beside a step, and no thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> bool:
        """Answer whether a checkpoint was asked for since the last call, and remove the request."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False
