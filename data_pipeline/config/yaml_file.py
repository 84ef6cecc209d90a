"""YAML in and out, through a safe loader only. Nothing in a file can name code or a type to build."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.config.base import ConfigError


class _ConfigLoader(yaml.SafeLoader):
    """PyYAML's safe loader that also refuses a key given twice, where YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"{_place(key_node)}: key {key!r} is not text: put it in quotes")
            if key in seen:
                raise ConfigError(f"{_place(key_node)}: key `{key}` is given twice: keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _ConfigDumper(yaml.SafeDumper):
    """PyYAML's safe dumper that quotes the text which `_ConfigLoader` would read as a number, as in a run named 1e5."""


# YAML 1.1 reads 3e-4 as text, since it wants a dot and a signed exponent; YAML 1.2 reads a number.
_EXPONENT_NUMBER = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
_ConfigLoader.add_implicit_resolver(*_EXPONENT_NUMBER)
_ConfigDumper.add_implicit_resolver(*_EXPONENT_NUMBER)


class _DocumentDumper(_ConfigDumper):
    """The same for readers of YAML 1.2, which take 0o17 for a number; text of several lines stands as it is."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice: a reference is hard to read."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_DocumentDumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?0o[0-7]+$"), list("-+0"))
_DocumentDumper.add_representer(str, _represent_text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one mapping. Raises ConfigError for a missing file, text that is not UTF-8 or not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    values = parse_yaml(text, where=str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, needs a mapping of keys to values")
    return values


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse YAML `text` into plain Python values. Raises ConfigError with the place of the fault."""
    try:
        loader = _ConfigLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        # PyYAML lets these through: a date in month 13, an integer of 5000 digits, 3000 nested lists.
        raise ConfigError(f"{where}: a value cannot be read: {error}: put text in quotes") from None


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write `values` in their order, so that a person can compare two files."""
    path.write_text(dump_yaml(values), encoding="utf-8")


def dump_yaml(values: dict[str, Any]) -> str:
    """Return the text of `values` in their order, as `parse_yaml` reads it."""
    return yaml.dump(values, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


def dump_yaml_documents(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return several documents in one text, for programs that read YAML 1.1 or 1.2."""
    return yaml.dump_all(
        documents, Dumper=_DocumentDumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=1 << 30
    )


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
