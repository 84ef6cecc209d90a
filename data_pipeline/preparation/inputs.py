"""Finds the files of a corpus and cuts them into pieces that can be read apart. Reads no document.

The list, its order and the cuts depend on the files alone, never on the machine or the number of workers.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import ReadingConfig
from data_pipeline.errors import DataError
from data_pipeline.preparation.corpus_file import (
    COMPRESSED_SUFFIX,
    FileKind,
    count_row_groups,
    is_compressed,
    open_table,
    starts_with_bracket,
)

_TABLE_KINDS: dict[str, FileKind] = {".parquet": "parquet", ".arrow": "arrow"}
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
# What `datasets` leaves in a directory written by `save_to_disk`.
_SAVED_DATASET_MARK = "state.json"
_SAVED_DICTIONARY_MARK = "dataset_dict.json"


@dataclass(frozen=True)
class InputFile:
    """One file of the corpus, or one directory written by `datasets`' `save_to_disk`."""

    path: Path
    input_number: int
    name: str
    """Path relative to the input that it was found in, so that a corpus may move."""

    kind: FileKind
    num_bytes: int
    changed: str
    """When it was last changed, as its store says."""


@dataclass(frozen=True)
class Piece:
    """A part of one file: bytes of a file of lines, row groups of Parquet, rows of Arrow, or all (`stop` None)."""

    file: InputFile
    start: int
    stop: int | None
    num_bytes: int

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    @property
    def kind(self) -> FileKind:
        """How documents lie in the file."""
        return self.file.kind


def find_inputs(inputs: Sequence[Path], reading: ReadingConfig) -> list[InputFile]:
    """List the files of all `inputs` in a fixed order. Raises DataError if there is none, or one twice."""
    files: list[InputFile] = []
    for number, path in enumerate(inputs):
        files += _expand(path, number, reading)
    if not files or not sum(file.num_bytes for file in files):
        raise DataError(
            f"empty corpus: {', '.join(map(str, inputs)) or 'no input'} holds {len(files)} files "
            f"and 0 bytes of text (glob {', '.join(reading.globs)}): check the path and --glob"
        )
    seen: dict[Path, InputFile] = {}
    for file in files:
        first = seen.setdefault(file.path.resolve(), file)
        if first is not file:
            raise DataError(f"{file.path}: given twice (also as {first.path}): its text would be counted double")
    return files


def split_into_pieces(file: InputFile, piece_bytes: int) -> list[Piece]:
    """Cut `file` into pieces of about `piece_bytes`, where its kind allows it."""
    if file.kind in ("lines", "json_lines") and not is_compressed(file.path):
        return _cut(file, file.num_bytes, piece_bytes)
    if file.kind == "parquet":
        return _cut(file, count_row_groups(file.path), piece_bytes)
    if file.kind in ("arrow", "saved"):
        return _cut(file, len(open_table(file.path, file.kind)), piece_bytes)
    return [Piece(file, 0, None, file.num_bytes)]


def look_at(path: Path, kind: FileKind) -> tuple[int, str]:
    """Return the size of an input in bytes, and when it was last changed. Raises DataError if it is gone."""
    try:
        facts = [child.stat() for child in (path.glob("*.arrow") if kind == "saved" else [path])]
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
        return [_describe(path, number, path.name, reading)]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or directory: check the input's path")
    if (path / _SAVED_DICTIONARY_MARK).exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise DataError(f"{path}: a saved dataset with splits {', '.join(splits)}: give one, as {path}/{splits[0]}")
    if (path / _SAVED_DATASET_MARK).exists():
        return [InputFile(path, number, path.name, "saved", *look_at(path, "saved"))]
    names = {found.relative_to(path).as_posix() for glob in reading.globs for found in _glob(path, glob)}
    return [_describe(path / name, number, name, reading) for name in sorted(names) if _is_wanted(path, name, reading)]


def _glob(path: Path, pattern: str) -> list[Path]:
    try:
        return list(path.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"--glob {pattern!r}: {error}: use a pattern relative to the folder, as '**/*.py'") from None


def _is_wanted(folder: Path, name: str, reading: ReadingConfig) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    excluded = any(fnmatch.fnmatchcase(name, pattern) for pattern in reading.excludes)
    return not hidden and not excluded and (folder / name).is_file()


def _describe(path: Path, number: int, name: str, reading: ReadingConfig) -> InputFile:
    kind = _kind_of(path, reading)
    return InputFile(path, number, name, kind, *look_at(path, kind))


def _kind_of(path: Path, reading: ReadingConfig) -> FileKind:
    suffixes = [suffix for suffix in path.suffixes if suffix != COMPRESSED_SUFFIX]
    suffix = suffixes[-1].lower() if suffixes else ""
    if suffix in _JSON_SUFFIXES:
        return "json_array" if starts_with_bracket(path) else "json_lines"
    if suffix in _TABLE_KINDS:
        return _TABLE_KINDS[suffix]
    return "text" if reading.text_unit == "file" else "lines"
