"""From what a user types to a run directory. Creates none."""

import re
from pathlib import Path

from llama_dist.config import ConfigError, RunDirectory

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")  # as RunConfig.name


def find_run(run: str, runs_directory: Path) -> RunDirectory:
    """Return the run of that name under `runs_directory`, or at that path. Raises ConfigError where there is none."""
    is_name = _NAME.fullmatch(run) is not None
    candidates = [runs_directory / run] if is_name else []
    candidates.append(Path(run))
    for path in candidates:
        directory = RunDirectory(path.absolute())
        if directory.config.is_file():
            return directory
    tried = " and ".join(str(path) for path in candidates)
    known = sorted(path.parent.name for path in runs_directory.glob("*/run.yaml"))
    raise ConfigError(
        f"no run `{run}` (looked for {tried} with a run.yaml): "
        + (f"runs of {runs_directory}: {', '.join(known[:20])}" if known else f"there are no runs in {runs_directory}")
    )
