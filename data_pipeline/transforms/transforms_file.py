"""Reads the file of `llama-dist data prepare --transforms`."""

from pathlib import Path

from data_pipeline.config import TransformsFile, parse_config, read_yaml


def read_transforms_file(path: Path) -> TransformsFile:
    """Read the transforms and the augmentation. Raises ConfigError that names each unknown key and its nearest one."""
    return parse_config(TransformsFile, read_yaml(path), where=str(path))
