"""A node's answers as typed records. What does not have the form is told as such: it may be another revision's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.gpu_health import GpuHealth, GpuSurvey
from cluster.software import SoftwareFacts

Values = Mapping[str, Any]


class AnswerError(Exception):
    """An answer does not have the form that this revision's probe gives it."""


@dataclass(frozen=True)
class Hello:
    """Who a node says it is."""

    host: str
    machine: str
    """Equal for two names only if they lead to one machine or container."""

    software: SoftwareFacts


@dataclass(frozen=True)
class Hardware:
    """What a node has, and has free."""

    num_cores: int
    memory_bytes: int
    available_bytes: int
    load: float
    """Processes that ran or waited for a core, averaged over the last minute."""

    gpus: GpuSurvey


@dataclass(frozen=True)
class Place:
    """A directory's disk as a node sees it."""

    fault: str
    existing: str = ""
    """The directory, or its nearest parent that exists."""

    is_writable: bool = False
    free_bytes: int = 0
    used_bytes: int = 0
    """Below the directory itself, where that was asked."""


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset as a node sees it."""

    fault: str
    fingerprint: str = ""
    manifest_hash: str = ""
    num_shards: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class Storage:
    """What a node sees of the run's places, datasets and config files, each by its path."""

    places: Mapping[str, Place]
    datasets: Mapping[str, Dataset]
    files: Mapping[str, str | None]
    """SHA-256; None for a file that is not there."""


def read_hello(values: Values) -> Hello:
    """Read an answer. Raises AnswerError."""
    software = _mapping(values, "software")
    packages = _mapping(software, "packages")
    dirty = software.get("git_dirty")
    return Hello(
        host=_text(_mapping(values, "identity"), "host"),
        machine=_text(_mapping(values, "identity"), "machine"),
        software=SoftwareFacts(
            python=_text(software, "python"),
            executable=_text(software, "executable"),
            packages={str(name): None if version is None else str(version) for name, version in packages.items()},
            code_directory=_text(software, "code_directory"),
            code_hash=_text(software, "code_hash"),
            git_revision=_optional_text(software, "git_revision"),
            git_dirty=None if dirty is None else bool(dirty),
        ),
    )


def read_hardware(values: Values) -> Hardware:
    """Read an answer. Raises AnswerError."""
    survey = _mapping(values, "gpus")
    gpus = survey.get("gpus")
    if not isinstance(gpus, list):
        raise AnswerError(f"`gpus` is {gpus!r}, a list is needed")
    return Hardware(
        num_cores=_integer(values, "num_cores"),
        memory_bytes=_integer(values, "memory_bytes"),
        available_bytes=_integer(values, "available_bytes"),
        load=_number(values, "load"),
        gpus=GpuSurvey(
            has_driver_tool=bool(survey.get("has_driver_tool")),
            fault=_optional_text(survey, "fault"),
            gpus=tuple(_read_gpu(gpu) for gpu in gpus),
        ),
    )


def read_storage(values: Values) -> Storage:
    """Read an answer. Raises AnswerError."""
    files = _mapping(values, "files")
    return Storage(
        places={path: _read_place(place) for path, place in _mapping(values, "places").items()},
        datasets={path: _read_dataset(one) for path, one in _mapping(values, "datasets").items()},
        files={path: None if value is None else str(value) for path, value in files.items()},
    )


def _read_place(values: Any) -> Place:
    if not isinstance(values, dict):
        raise AnswerError(f"a place is {values!r}")
    if "fault" in values:
        return Place(_text(values, "fault"))
    return Place(
        fault="",
        existing=_text(values, "existing"),
        is_writable=bool(values.get("is_writable")),
        free_bytes=_integer(values, "free_bytes"),
        used_bytes=_integer(values, "used_bytes"),
    )


def _read_dataset(values: Any) -> Dataset:
    if not isinstance(values, dict):
        raise AnswerError(f"a dataset is {values!r}")
    if "fault" in values:
        return Dataset(_text(values, "fault"))
    return Dataset(
        fault="",
        fingerprint=_text(values, "fingerprint"),
        manifest_hash=_text(values, "manifest_hash"),
        num_shards=_integer(values, "num_shards"),
        num_bytes=_integer(values, "num_bytes"),
    )


def _read_gpu(values: Any) -> GpuHealth:
    if not isinstance(values, dict):
        raise AnswerError(f"a GPU is {values!r}")
    return GpuHealth(
        index=_integer(values, "index"),
        name=_text(values, "name"),
        memory_bytes=_integer(values, "memory_bytes"),
        used_bytes=_integer(values, "used_bytes"),
        utilization_percent=_optional_integer(values, "utilization_percent"),
        num_uncorrected_errors=_optional_integer(values, "num_uncorrected_errors"),
    )


def _mapping(values: Values, name: str) -> dict[str, Any]:
    value = values.get(name)
    if not isinstance(value, dict):
        raise AnswerError(f"`{name}` is {value!r}, an object is needed")
    return value


def _text(values: Values, name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise AnswerError(f"`{name}` is {value!r}, a text is needed")
    return value


def _integer(values: Values, name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int):
        raise AnswerError(f"`{name}` is {value!r}, a whole number is needed")
    return value


def _number(values: Values, name: str) -> float:
    value = values.get(name)
    if not isinstance(value, int | float):
        raise AnswerError(f"`{name}` is {value!r}, a number is needed")
    return float(value)


def _optional_text(values: Values, name: str) -> str | None:
    return None if values.get(name) is None else _text(values, name)


def _optional_integer(values: Values, name: str) -> int | None:
    return None if values.get(name) is None else _integer(values, name)
