"""The sections of a run file that the data of a run depends on. Knows no other section, and checks none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import BatchConfig, ConfigError, DataConfig, parse_config
from data_pipeline.config.yaml_file import read_yaml

_RUN_FILE_NAME = "run.yaml"


@dataclass(frozen=True)
class RunSections:
    """What a run reads, and how much of it a step takes."""

    path: Path
    data: DataConfig
    batch: BatchConfig
    train: dict[str, Any]
    """The section `train` as it was written, or nothing."""

    def num_steps(self) -> int:
        """Return `train.num_steps`. Raises ConfigError if it is absent or no count."""
        found = self.train.get("num_steps")
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise ConfigError(f"{self.path}: train.num_steps is {found!r}, needs a number of steps: set it, or --steps")
        return found


def read_run_sections(run: Path) -> RunSections:
    """Read a run file, or the config of the newest attempt of a run directory.

    Raises ConfigError for a section that is absent or wrong.
    """
    path = _newest_config(run) if run.is_dir() else run
    values = read_yaml(path)
    missing = [name for name in ("data", "batch") if not isinstance(values.get(name), dict)]
    if missing:
        raise ConfigError(f"{path}: has no section `{missing[0]}`: give the run file of a training")
    train = values.get("train")
    return RunSections(
        path,
        parse_config(DataConfig, values["data"], where=f"{path}: data"),
        parse_config(BatchConfig, values["batch"], where=f"{path}: batch"),
        train if isinstance(train, dict) else {},
    )


def _newest_config(run: Path) -> Path:
    """Return what the newest attempt was given: `run.yaml` is the first launch's, and its data may be out of date."""
    attempts = sorted(run.glob("attempts/[0-9]*/config.yaml"), key=lambda path: int(path.parent.name))
    return attempts[-1] if attempts else run / _RUN_FILE_NAME
