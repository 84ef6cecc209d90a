"""Writes the config reference from the models: `python -m llama_dist.config.reference > docs/config.md`.

The docstring under each field is its text; nothing is documented twice. A test fails when the page is stale.
"""

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from data_pipeline.config import PreparationConfig
from llama_dist.config.cluster import ClusterConfig
from llama_dist.config.rules import RULES
from llama_dist.config.run import RunConfig

ROOTS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("Run", "A file of `configs/run/`; `llama-dist launch RUN.yaml --set key=value` overrides one key.", RunConfig),
    ("Cluster", "A file of `configs/cluster/`; override with `--set cluster.key=value`.", ClusterConfig),
    ("Preparation of a dataset", "What `llama-dist data prepare` records in a dataset's manifest.", PreparationConfig),
)

_HEAD = """\
# Config reference

<!-- Generated: python -m llama_dist.config.reference > docs/config.md -->

Every key of every config file. An unknown key, or a value of another type, is an error that names the nearest key.
`N` stands for a place in a list, counted from 0.
"""

_PLAIN_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
# Attributes of the constraints that pydantic keeps of a field.
_BOUNDS = (("ge", ">= {}"), ("gt", "> {}"), ("le", "<= {}"), ("lt", "< {}"))
_SHAPES = (("min_length", "of at least {}"), ("pattern", "matches `{}`"))


@dataclass(frozen=True)
class FieldRow:
    """One key of the reference."""

    path: str
    type: str
    default: str
    documentation: str


@dataclass(frozen=True)
class Section:
    """One model: its place in the file, and its keys."""

    path: str
    documentation: str
    rows: tuple[FieldRow, ...]
    tag: str = ""
    """The `key: value` that picks the model, where a field holds one of several."""

    @property
    def title(self) -> str:
        """What stands above the section: where the model lies in the file."""
        return f"`{self.path}`, {self.tag}" if self.tag else f"`{self.path}`"


def sections(model: type[BaseModel], path: str = "") -> Iterator[Section]:
    """Yield the section of `model`, then those of the models inside it, in the order of the fields."""
    rows, inner = [], []
    for name, field in model.model_fields.items():
        field_path = f"{path}.{name}" if path else name
        rows.append(FieldRow(field_path, _field_type(field), _default(field), _one_line(field.description)))
        inner += [(one, f"{field_path}.N" if is_list else field_path) for one, is_list in _inner(field.annotation)]
    yield Section(path, _one_line(model.__doc__), tuple(rows), _tag(model))
    for inner_model, inner_path in inner:
        yield from sections(inner_model, inner_path)


def reference_page() -> str:
    """Return the whole page as Markdown."""
    parts = [_HEAD]
    for title, introduction, model in ROOTS:
        parts.append(f"## {title}\n\n{introduction}\n")
        parts += [_section_text(section) for section in sections(model)]
    rules = "\n".join(f"| `{rule.name}` | {rule.reason} |" for rule in RULES)
    parts.append("## Rules between keys\n\nChecked before anything starts; an error names the rule.\n")
    parts.append(f"| rule | why |\n|---|---|\n{rules}\n")
    return "\n".join(parts)


def _section_text(section: Section) -> str:
    head = f"### {section.title}\n\n{section.documentation}\n\n" if section.path else f"{section.documentation}\n\n"
    rows = "\n".join(
        f"| `{row.path}` | {row.type} | {row.default} | {_cell(row.documentation)} |" for row in section.rows
    )
    return f"{head}| key | type | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _tag(model: type[BaseModel]) -> str:
    """Return the key of `model` that can have one value only, which picks it among others."""
    for name, field in model.model_fields.items():
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if len(values) == 1 and field.is_required():
            return f"`{name}: {values[0]}`"
    return ""


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _field_type(field: FieldInfo) -> str:
    return _cell(_type_text(field.annotation) + _bounds_text(field.metadata))


def _type_text(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0]) + _bounds_text(_flat_metadata(arguments[1:]))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(argument) for argument in arguments))
    if origin in (list, dict):
        inner = " to ".join(_type_text(argument) for argument in arguments)
        return f"list of {inner}" if origin is list else f"map from {inner}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys below"
    return _PLAIN_TYPES[annotation]


def _flat_metadata(metadata: tuple[Any, ...]) -> list[Any]:
    """Take the constraints out of `Field(...)`, which keeps them in a list of its own."""
    return [item for entry in metadata for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _bounds_text(metadata: list[Any]) -> str:
    texts = [
        template.format(value)
        for attribute, template in _BOUNDS + _SHAPES
        for item in metadata
        if (value := getattr(item, attribute, None)) is not None
    ]
    return " " + ", ".join(texts) if texts else ""


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        value = field.get_default(call_default_factory=True, validated_data={})
    else:
        value = field.default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "null"
    if isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
        return f"`[{', '.join(_in_one_line(item) for item in value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _in_one_line(model: BaseModel) -> str:
    """Write a small model as YAML does in one line."""
    return "{" + ", ".join(f"{name}: {value}" for name, value in model.model_dump(mode="json").items()) + "}"


def _inner(annotation: Any, is_list: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    """Yield the models that a field holds, several where it holds one of several, and whether a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, is_list
    for argument in get_args(annotation):
        yield from _inner(argument, is_list or get_origin(annotation) is list)


if __name__ == "__main__":
    sys.stdout.write(reference_page())
