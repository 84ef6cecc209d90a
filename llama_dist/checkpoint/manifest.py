"""The manifest of a checkpoint: the JSON file that is written last and makes the checkpoint exist.

It names every file with size and checksum, and for every parameter which file holds which range of the flattened
tensor. Imports no torch, so that the launcher can ask which checkpoints there are.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash

from data_pipeline.config import ReportedError
from llama_dist.checkpoint.disk import sync_directory, write_synced
from llama_dist.checkpoint.manifest_values import check_files, check_progress, check_tensors
from llama_dist.checkpoint.regular_file import read_regular
from llama_dist.checkpoint.tensor_file import tensor_key

MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.model"
_UNFINISHED_NAME = f".{MANIFEST_NAME}.new"
_REVOKED_NAME = f".{MANIFEST_NAME}.revoked"
FORMAT_VERSION = 2
_READABLE_VERSIONS = (1, 2)  # version 1 lacks what has a default below
_STEP_PATTERN = re.compile(r"^step_(\d{8,})$")


SaveKind = Literal["interval", "clock", "asked", "stop", "end", "imported"]
"""Why a checkpoint was written: steps or minutes had passed, a person asked, the run was stopped, it reached its last
step, or the weights came from elsewhere. Those of the clock are ephemeral: the next checkpoint takes their place."""

MASTER_AND_MOMENTS = ("fp32", "exp_avg", "exp_avg_sq")
"""What a checkpoint of a run holds of each parameter; an imported one may hold the weights alone."""


class CheckpointError(ReportedError):
    """A checkpoint cannot be written, or is not what it says. Nothing of it has been used."""

    exit_code = 74


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint: its name in the directory, size, xxh3-128 checksum in hexadecimal, and the host that
    wrote it, on whose disk it is where the disks are not shared."""

    name: str
    num_bytes: int
    checksum: str
    host: str = ""


@dataclass(frozen=True)
class Piece:
    """A range of a flattened tensor: `length` elements from `offset`, held by the file numbered `file`."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True)
class TensorRecord:
    """A parameter: its whole shape, and the pieces that tile its flattened form, in order."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def num_elements(self) -> int:
        """Elements of the whole tensor."""
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True)
class Progress:
    """Where a run stands, apart from its tensors, and who says so."""

    step: int
    """Optimizer steps done."""

    tokens_seen: int
    """Training tokens consumed."""

    config: dict[str, Any]
    """The resolved run config that wrote it, as plain values."""

    code_revision: str
    """Version, and git revision where there is one, of the code that wrote it."""

    world: dict[str, int]
    """Topology that wrote it: world_size, pipeline_stages, zero_stage. For people; no load depends on it."""

    data: dict[str, Any]
    """State of the data stream; empty in an imported checkpoint, which stands at the first sample."""

    kind: SaveKind = "interval"
    """Why it was written."""

    held_out_loss: float | None = None
    """Loss on the held-out text after this very step, in nats; None where it was not measured then."""

    tracking: dict[str, Any] = field(default_factory=dict)
    """Identity of the run in the tracker, so that a copied checkpoint can continue the same one."""

    life: str = ""
    """Which life of its name the run was in; empty in an imported checkpoint, or of a run that had none."""


@dataclass(frozen=True)
class Manifest(Progress):
    """Everything that a checkpoint says of itself."""

    scalars: dict[str, float] = field(default_factory=dict)
    """State that is alike on every rank: optimizer steps, loss scale."""

    files: tuple[FileRecord, ...] = ()
    tensors: dict[str, TensorRecord] = field(default_factory=dict)

    states: tuple[str, ...] = MASTER_AND_MOMENTS
    """What it holds of each parameter. Moments that are absent begin at zero."""

    def keys_of(self, files: Iterable[int]) -> dict[int, list[tuple[str, int]]]:
        """What each of these files, by number, must hold: (key, elements) of every piece and state.

        Of a large world each rank asks for its share alone: the keys of all files are more than a million texts.
        """
        keys: dict[int, list[tuple[str, int]]] = {file: [] for file in files}
        for name, record in self.tensors.items():
            for piece in record.pieces:
                if piece.file in keys:
                    keys[piece.file] += [(tensor_key(name, state, piece.offset), piece.length) for state in self.states]
        return keys

    def files_with_tensors(self) -> set[int]:
        """Numbers of the files that hold any piece."""
        return {piece.file for record in self.tensors.values() for piece in record.pieces}

    def to_json(self) -> str:
        """Text of the manifest, with a checksum over all of it. A large index takes its time, but holds the
        interpreter's lock only for a parameter at a time: training goes on meanwhile."""
        values = {"format": "llama-dist checkpoint", "version": FORMAT_VERSION, **vars(self)}
        values["files"] = [vars(file) for file in self.files]
        texts = {key: _compact(value) for key, value in values.items() if key != "tensors"}
        tensors = (f"{_compact(name)}:{_compact(_plain(self.tensors[name]))}" for name in sorted(self.tensors))
        texts["tensors"] = "{" + ",\n".join(tensors) + "}"
        hashed = ",".join(f'"{key}":{texts[key]}' for key in sorted(texts)).replace("\n", "")
        texts["checksum"] = f'"{_checksum_of_text("{" + hashed + "}")}"'
        return "{\n" + ",\n".join(f'"{key}": {text}' for key, text in texts.items()) + "\n}\n"


def step_directory(checkpoints: Path, step: int) -> Path:
    """Directory of the checkpoint of `step`."""
    return checkpoints / f"step_{step:08d}"


def is_step_directory(directory: Path) -> bool:
    """Whether a directory of this name is there itself, and not a link to one or a file."""
    try:
        return stat.S_ISDIR(directory.lstat().st_mode)
    except OSError:
        return False


def list_steps(checkpoints: Path) -> list[int]:
    """Steps that have a manifest, ascending. Says nothing of whether their files are good; follows no link."""
    return sorted(
        step for step, path in _step_entries(checkpoints) if not path.is_symlink() and (path / MANIFEST_NAME).is_file()
    )


def list_candidates(checkpoints: Path) -> list[int]:
    """Every step that is a checkpoint by its name, ascending, also one that was damaged, replaced or lost its manifest.

    Not among them: a save that a kill cut off before its last rename, for it never existed.
    """
    return sorted(step for step, path in _step_entries(checkpoints) if not _is_unfinished(path))


def list_unfinished(checkpoints: Path) -> list[Path]:
    """Directories of steps whose save was cut off before its last rename."""
    return [path for _, path in _step_entries(checkpoints) if _is_unfinished(path)]


def has_any_step(checkpoints: Path) -> bool:
    """Whether a checkpoint ever existed here: then a start from zero needs the user's word."""
    return bool(list_candidates(checkpoints))


def read_manifest(directory: Path) -> Manifest:
    """Read and check one manifest. Raises CheckpointError: absent, torn, changed, of another version or step."""
    return parse_manifest(read_manifest_file(directory), directory)


def read_manifest_file(directory: Path) -> bytes:
    """Content of the manifest's file, unchecked. Raises CheckpointError where it is no file or cannot be read."""
    path = directory / MANIFEST_NAME
    if _step_of(directory) is not None and os.path.lexists(directory) and not is_step_directory(directory):
        raise CheckpointError(f"{directory}: is a link or a file, a checkpoint needs a directory of its own")
    try:
        return read_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def parse_manifest(content: bytes, directory: Path) -> Manifest:
    """Check the content of the manifest of `directory`; reads no file. Raises CheckpointError."""
    path = directory / MANIFEST_NAME
    try:
        values = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not JSON: the file was cut or overwritten") from None
    version = values.get("version") if isinstance(values, dict) else None
    if version not in _READABLE_VERSIONS:
        raise CheckpointError(f"{path}: format version {version!r}, this program reads {_READABLE_VERSIONS}")
    stated = values.pop("checksum", None)
    found = _checksum_of(values)
    if stated != found:
        raise CheckpointError(f"{path}: checksum is {found}, the file says {stated}: it was changed or damaged")
    try:
        manifest = _from_values(values)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is no manifest of this program: {error}") from None
    step = _step_of(directory)
    if step not in (None, manifest.step):
        raise CheckpointError(f"{path}: is of step {manifest.step}, its directory of step {step}: it was put there")
    return manifest


def prepare_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest beside its name: a directory that still has it so belongs to a save that never finished."""
    prepare_manifest_file(directory, manifest.to_json().encode())


def prepare_manifest_file(directory: Path, content: bytes) -> None:
    """Write the file that `finish_manifest` puts in place."""
    write_synced(directory / _UNFINISHED_NAME, [content])
    sync_directory(directory)


def finish_manifest(directory: Path) -> None:
    """Make the checkpoint exist: one rename, synced."""
    (directory / _UNFINISHED_NAME).rename(directory / MANIFEST_NAME)
    sync_directory(directory)


def _is_unfinished(directory: Path) -> bool:
    marks = (directory / name for name in (_UNFINISHED_NAME, _REVOKED_NAME))
    return not os.path.lexists(directory / MANIFEST_NAME) and any(mark.exists() for mark in marks)


def revoke_manifest(directory: Path) -> bool:
    """Make `finish_manifest` fail from now on, if it was not called yet; answers whether it was not."""
    try:
        (directory / _UNFINISHED_NAME).rename(directory / _REVOKED_NAME)
    except FileNotFoundError:
        return False
    return True


def withdraw_manifest(directory: Path) -> None:
    """Let the checkpoint exist no more: its directory is that of a save that never finished."""
    (directory / MANIFEST_NAME).rename(directory / _UNFINISHED_NAME)
    sync_directory(directory)


def _step_entries(checkpoints: Path) -> Iterator[tuple[int, Path]]:
    """Whatever has the name of a step's directory."""
    if checkpoints.is_dir():
        for path in checkpoints.iterdir():
            step = _step_of(path)
            if step is not None:
                yield step, path


def step_of_name(name: str) -> int | None:
    """Step of a checkpoint directory's name, None for any other name."""
    match = _STEP_PATTERN.match(name)
    return int(match.group(1)) if match else None


def _step_of(directory: Path) -> int | None:
    """Step that the directory's name says; None for one that was named by a person."""
    match = _STEP_PATTERN.match(directory.name)
    step = int(match.group(1)) if match else None
    return step if step is not None and step_directory(directory.parent, step) == directory else None


def _checksum_of(values: dict[str, Any]) -> str:
    return _checksum_of_text(_compact(values))


def _checksum_of_text(text: str) -> str:
    return xxhash.xxh3_128(text.encode()).hexdigest()


def _compact(value: Any) -> str:
    """JSON on one line, its keys in order: line breaks inside strings are escaped."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _plain(record: TensorRecord) -> dict[str, Any]:
    return {"shape": record.shape, "pieces": [vars(piece) for piece in record.pieces]}


def _from_values(values: dict[str, Any]) -> Manifest:
    """Build the record of checked values."""
    check_progress(values)
    check_files(values["files"])
    check_tensors(values["tensors"], len(values["files"]))
    files = tuple(FileRecord(**record) for record in values["files"])
    tensors = {
        name: TensorRecord(tuple(record["shape"]), tuple(Piece(**piece) for piece in record["pieces"]))
        for name, record in values["tensors"].items()
    }
    plain = {one.name: values[one.name] for one in fields(Manifest) if one.name in values}
    manifest = Manifest(**plain | {"scalars": values["scalars"], "files": files, "tensors": tensors})
    states = tuple(manifest.states)
    if manifest.kind not in get_args(SaveKind) or states[:1] != MASTER_AND_MOMENTS[:1]:
        raise ValueError(f"kind {manifest.kind!r}, states {manifest.states}")
    if not set(states) <= set(MASTER_AND_MOMENTS):
        raise ValueError(f"states {manifest.states}, this program knows {MASTER_AND_MOMENTS}")
    return replace(manifest, states=states)
