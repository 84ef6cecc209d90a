"""From what a user types to a run directory. Creates none."""

import re
from pathlib import Path

from launcher.queued_job import JOB_NOTE_NAME, noted_job
from llama_dist.config import ConfigError, RunDirectory

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")  # as RunConfig.name


def find_run(run: str, runs_directory: Path) -> RunDirectory:
    """Return the run of that name under `runs_directory`, or at that path, also one that a job has still to begin.

    Raises ConfigError where there is none.
    """
    is_name = _NAME.fullmatch(run) is not None
    candidates = [runs_directory / run] if is_name else []
    candidates.append(Path(run))
    for path in candidates:
        directory = RunDirectory(path.absolute())
        if directory.config.is_file() or noted_job(directory):
            return directory
    tried = " and ".join(str(path) for path in candidates)
    known = sorted(
        {path.parent.name for name in ("run.yaml", JOB_NOTE_NAME) for path in runs_directory.glob(f"*/{name}")}
    )
    raise ConfigError(
        f"no run `{run}` (looked for {tried} with a run.yaml): "
        + (f"runs of {runs_directory}: {', '.join(known[:20])}" if known else f"there are no runs in {runs_directory}")
    )
