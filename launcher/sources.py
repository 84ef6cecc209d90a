"""Whether the prepared data is there, before any long work. Its contents are the trainer's to verify."""

from pathlib import Path

from llama_dist.config import ConfigError, RunConfig

_MANIFEST_NAME = "manifest.json"


def check_sources(config: RunConfig) -> None:
    """Raise ConfigError that lists every data source without a manifest. Stores are the ranks' to ask."""
    local = [Path(source.path) for source in config.data.sources if not source.is_remote]
    faults = [fault for directory in local if (fault := _fault(directory))]
    if faults:
        raise ConfigError("\n".join([f"run `{config.name}`: the data cannot be read:", *faults]))


def _fault(directory: Path) -> str | None:
    prepare = "prepare it with `llama-dist data prepare`, or mend data.sources"
    if not directory.is_dir():
        where = "" if directory.is_absolute() else f" (relative to {Path.cwd()})"
        return f"  {directory}: is no directory{where}: {prepare}"
    if not (directory / _MANIFEST_NAME).is_file():
        return f"  {directory}: has no {_MANIFEST_NAME}, so no preparation was ever finished there: {prepare}"
    return None
