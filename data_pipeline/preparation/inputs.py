"""Finds the files of a corpus and cuts them into pieces that can be read apart. Reads no document.

The list, its order and the cuts depend on the files alone, never on the machine or the number of workers.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsspec.utils import glob_translate

from data_pipeline.config import ReadingConfig
from data_pipeline.errors import DataError
from data_pipeline.preparation.corpus_file import (
    COMPRESSED_SUFFIXES,
    FileKind,
    codec_of,
    count_row_groups,
    file_name,
    open_table,
    starts_with_bracket,
)
from data_pipeline.preparation.hub_dataset import is_hub, look_at_hub, parse_hub
from data_pipeline.preparation.remote_file import is_url, list_folder, look_at_url, shown_url

_TABLE_KINDS: dict[str, FileKind] = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "tsv"}
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
# What `datasets` leaves in a directory written by `save_to_disk`.
_SAVED_DATASET_MARK = "state.json"
_SAVED_DICTIONARY_MARK = "dataset_dict.json"
_LOCAL_PREFIXES = ("file://", "local://")


@dataclass(frozen=True)
class InputFile:
    """One file of the corpus, or one directory written by `datasets`' `save_to_disk`."""

    path: str
    """Where it lies: a path, or a URL."""

    input_number: int
    name: str
    """Path relative to the input that it was found in, so that a corpus may move."""

    kind: FileKind
    num_bytes: int
    changed: str
    """When it was last changed, in nanoseconds since 1970 (0: its store does not say), and its store's mark if any."""

    @property
    def place(self) -> str:
        """Where it lies, for messages."""
        return shown_url(self.path)

    @property
    def changed_ns(self) -> int:
        """When it was last changed; 0 if its store does not say."""
        return int(self.changed.split()[0])


@dataclass(frozen=True)
class Piece:
    """A part of one file: bytes of a file of lines, row groups of Parquet, rows of Arrow, or all (`stop` None)."""

    file: InputFile
    start: int
    stop: int | None
    num_bytes: int

    @property
    def path(self) -> str:
        """Where the file lies: a path, or a URL."""
        return self.file.path

    @property
    def place(self) -> str:
        """Where the file lies, for messages."""
        return self.file.place

    @property
    def kind(self) -> FileKind:
        """How documents lie in the file."""
        return self.file.kind


def find_inputs(inputs: Sequence[Path | str], reading: ReadingConfig) -> list[InputFile]:
    """List the files of all `inputs` in a fixed order. Raises DataError if there is none, or one twice."""
    files: list[InputFile] = []
    for number, path in enumerate(map(str, inputs)):
        files += _expand_url(path, number, reading) if is_url(path) else _expand(Path(path), number, reading)
    if not files or not sum(file.num_bytes for file in files):
        shown = ", ".join(shown_url(str(path)) for path in inputs) or "no input"
        raise DataError(
            f"empty corpus: {shown} holds {len(files)} files "
            f"and 0 bytes of text (glob {', '.join(reading.globs)}): check the path and --glob"
        )
    seen: dict[str, InputFile] = {}
    for file in files:
        first = seen.setdefault(file.path if is_url(file.path) else str(Path(file.path).resolve()), file)
        if first is not file:
            raise DataError(f"{file.place}: given twice (also as {first.place}): its text would be counted double")
    return files


def split_into_pieces(file: InputFile, piece_bytes: int) -> list[Piece]:
    """Cut `file` into pieces of about `piece_bytes`, where its kind allows it."""
    if file.kind in ("lines", "json_lines") and codec_of(file.path) is None:
        return _cut(file, file.num_bytes, piece_bytes)
    if file.kind == "parquet":
        return _cut(file, count_row_groups(file.path), piece_bytes)
    if file.kind in ("arrow", "saved"):
        return _cut(file, len(open_table(file.path, file.kind)), piece_bytes)
    if file.kind == "hub":
        # A shard is opened from its start: none is cut, each is a piece.
        return _cut(file, look_at_hub(file.path).num_shards, 1)
    return [Piece(file, 0, None, file.num_bytes)]


def look_at(path: str, kind: FileKind) -> tuple[int, str]:
    """Return the size of an input in bytes, and when it was last changed. Raises DataError if it is gone."""
    if kind == "hub":
        known = look_at_hub(path)
        return known.num_bytes, known.changed
    if is_url(path):
        seen = look_at_url(path)
        return seen.num_bytes, seen.changed
    try:
        facts = [child.stat() for child in (Path(path).glob("*.arrow") if kind == "saved" else [Path(path)])]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return sum(fact.st_size for fact in facts), str(max((fact.st_mtime_ns for fact in facts), default=0))


def _cut(file: InputFile, num_units: int, piece_bytes: int) -> list[Piece]:
    """Cut units 0..num_units (bytes, row groups or rows) evenly; each piece takes its share of the bytes."""
    num_pieces = max(1, min(num_units, -(-file.num_bytes // piece_bytes)))
    bounds = [num_units * number // num_pieces for number in range(num_pieces + 1)]
    sizes = [file.num_bytes * number // num_pieces for number in range(num_pieces + 1)]
    return [
        Piece(file, bounds[number], bounds[number + 1], sizes[number + 1] - sizes[number])
        for number in range(num_pieces)
    ]


def _expand(path: Path, number: int, reading: ReadingConfig) -> list[InputFile]:
    if path.is_file():
        return [_describe(str(path), number, path.name, reading)]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or directory: check the input's path")
    if (path / _SAVED_DICTIONARY_MARK).exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise DataError(f"{path}: a saved dataset with splits {', '.join(splits)}: give one, as {path}/{splits[0]}")
    if (path / _SAVED_DATASET_MARK).exists():
        return [InputFile(str(path), number, path.name, "saved", *look_at(str(path), "saved"))]
    names = {found.relative_to(path).as_posix() for glob in reading.globs for found in _glob(path, glob)}
    wanted = [name for name in sorted(names) if _is_wanted(name, reading) and (path / name).is_file()]
    return [_describe(str(path / name), number, name, reading) for name in wanted]


def _expand_url(url: str, number: int, reading: ReadingConfig) -> list[InputFile]:
    if is_hub(url):
        wanted = parse_hub(url)
        return [InputFile(url, number, f"{wanted.config or 'default'}/{wanted.split}", "hub", *look_at(url, "hub"))]
    if url.startswith(_LOCAL_PREFIXES):
        return _expand(Path(url.partition("://")[2]), number, reading)
    files = list_folder(url)
    if files is None:
        return [_describe(url, number, file_name(url), reading)]
    if _SAVED_DATASET_MARK in files or _SAVED_DICTIONARY_MARK in files:
        raise DataError(f"{url}: a saved dataset is mapped, and a URL cannot be: copy it here, or save it as Parquet")
    patterns = [re.compile(glob_translate(pattern)) for pattern in reading.globs]
    names = [name for name in sorted(files) if any(pattern.match(name) for pattern in patterns)]
    return [_describe(files[name], number, name, reading) for name in names if _is_wanted(name, reading)]


def _glob(path: Path, pattern: str) -> list[Path]:
    try:
        return list(path.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"--glob {pattern!r}: {error}: use a pattern relative to the folder, as '**/*.py'") from None


def _is_wanted(name: str, reading: ReadingConfig) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and not any(fnmatch.fnmatchcase(name, pattern) for pattern in reading.excludes)


def _describe(path: str, number: int, name: str, reading: ReadingConfig) -> InputFile:
    kind = _kind_of(path, reading)
    if kind == "arrow" and is_url(path):
        raise DataError(f"{path}: Arrow files are mapped, and a URL cannot be: copy it here, or save it as Parquet")
    return InputFile(path, number, name, kind, *look_at(path, kind))


def _kind_of(path: str, reading: ReadingConfig) -> FileKind:
    suffixes = [suffix.lower() for suffix in Path(file_name(path)).suffixes]
    suffix = next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED_SUFFIXES), "")
    if suffix in _JSON_SUFFIXES:
        return "json_array" if starts_with_bracket(path) else "json_lines"
    if suffix in _TABLE_KINDS:
        return _TABLE_KINDS[suffix]
    return "text" if reading.text_unit == "file" else "lines"
