"""The strict base of every config model, and how its errors are told to a person.

Does not read files (`yaml_file.py`) and knows no field: those live beside what they configure.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError


class ReportedError(Exception):
    """The user's or the world's fault: told as one message without a traceback, then the process ends with `exit_code`.

    Subclasses set the code of `llama_dist.exit_codes` that fits. The message says what was wrong, the value seen,
    the value needed and what to do.
    """

    exit_code = 70


class ConfigError(ReportedError, ValueError):
    """A config that cannot be used."""

    exit_code = 78


class StrictModel(BaseModel):
    """Frozen, typed, and closed: an unknown key or a value of another type is an error, never ignored.

    The docstring under each field is its documentation: the config reference is generated from it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


Model = TypeVar("Model", bound=BaseModel)


def parse_config(model: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """Build `model` from plain `values`; `where` names their origin in errors.

    Raises ConfigError that lists every fault at once, with the nearest known name of each unknown key.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        faults = "\n".join(f"  {_describe(model, fault)}" for fault in error.errors())
        raise ConfigError(f"{where}: the config cannot be used:\n{faults}") from None


def _describe(model: type[BaseModel], fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key{_nearest_name(model, fault['loc'])}"
    if fault["type"] == "missing":
        return f"{path}: required, but absent"
    if fault["type"] == "union_tag_invalid":
        return f"{path}.{fault['ctx']['discriminator'].strip(chr(39))}: {_unknown_tag(fault['ctx'])}"
    if fault["type"] == "union_tag_not_found":
        return f"{path}.{fault['ctx']['discriminator'].strip(chr(39))}: required, but absent"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "secret":
        return f"{path}: {message}"
    return f"{path}: {message} (got {fault['input']!r})" if path else message


def _nearest_name(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    parent = _model_at(model, location[:-1])
    if parent is None:
        return ""
    close = difflib.get_close_matches(str(location[-1]), parent.model_fields, n=1, cutoff=0.5)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known here: {', '.join(sorted(parent.model_fields))}"


def _unknown_tag(context: Any) -> str:
    """Tell of a choice that does not exist, by the name that picks one of several models."""
    known = context["expected_tags"].replace("'", "").split(", ")
    close = difflib.get_close_matches(context["tag"], known, n=1, cutoff=0.5)
    advice = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
    return f"unknown `{context['tag']}`; {advice}"


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    """Return the model that the keys of `location` lead to, through lists, optional fields and tagged choices."""
    choices = [model]
    for part in location:
        if isinstance(part, int):
            continue
        if len(choices) > 1:
            choices = [choice for choice in choices if _has_tag(choice, str(part))]
            continue
        field = choices[0].model_fields.get(str(part)) if choices else None
        choices = list(inner_models(field.annotation)) if field else []
    return choices[0] if len(choices) == 1 else None


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    return any(
        get_origin(field.annotation) is Literal and tag in get_args(field.annotation)
        for field in model.model_fields.values()
    )


def inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation holds: one, or the choices of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from inner_models(argument)
