"""Writes a checkpoint and waits for it: of an engine over all ranks, or of tensors that one process brings.

A run saves beside its training instead (`writer.py`); the transaction is the same.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from llama_dist.checkpoint.disk import write_synced
from llama_dist.checkpoint.manifest import FileRecord, Progress, TensorRecord, step_directory
from llama_dist.checkpoint.rank_file import FileLayout, chunks_of, lay_out
from llama_dist.checkpoint.retention import Retention
from llama_dist.checkpoint.save_group import SaveGroup, attempt
from llama_dist.checkpoint.tensor_file import tensor_key
from llama_dist.checkpoint.transaction import Contents, Range, index_of, point_latest, write_transaction
from llama_dist.config import CheckpointConfig
from llama_dist.parallel.engine import STATES, Engine, StatePartition

PART_BYTES = 1 << 30
"""Size from which on `write_checkpoint` begins the next file."""


def save_checkpoint(
    checkpoints: Path, engine: Engine, progress: Progress, *, tokenizer: bytes, keep_last: int
) -> str | None:
    """Collective. Write the checkpoint of `progress.step`, then remove all but the newest `keep_last`.

    `tokenizer` is the content of its file. Answers what could not be tidied up after the checkpoint was written, or
    None. Raises CheckpointError on every rank if any rank failed to write; what was there before is untouched.
    """
    group = SaveGroup.of_all_ranks()
    owned = owned_partitions(engine)
    ranges = group.gather(ranges_of(owned))

    def write_file(directory: Path) -> list[FileRecord]:
        return [write_live(directory / rank_file_name(group.rank), layout_of(owned), owned, group.host)]

    contents = Contents(progress, engine.scalars(), tokenizer)
    write_transaction(checkpoints, group, contents, write_file, lambda: index_of(ranges))
    untidy = attempt(tidy_up, checkpoints, progress.step, keep_last) if group.is_leader else {}
    error = group.gather(untidy.get("error"))[0]
    return f"step {progress.step} is saved, but older files could not be removed: {error}" if error else None


def write_checkpoint(
    checkpoints: Path,
    progress: Progress,
    tensors: Iterable[tuple[str, str, torch.Tensor]],
    *,
    scalars: dict[str, float],
    tokenizer: bytes,
    states: tuple[str, ...],
) -> Path:
    """Write the checkpoint of `progress.step` from whole tensors, one process, no process group; answers its directory.

    `tensors` yields (parameter, state, tensor of the parameter's shape), the `states` of one parameter one after the
    other; it is read once, and nothing of it is kept, so that it may be larger than memory. `tokenizer` is the content
    of its file, or empty where there is none. An older checkpoint of the same step is replaced, none is removed.
    Raises CheckpointError if the disk refuses.
    """
    group = SaveGroup.alone()
    ranges_of_files: list[list[Range]] = []

    def write_files(directory: Path) -> list[FileRecord]:
        records = []
        for number, part in enumerate(_parts(tensors, states)):
            layout = lay_out((tensor_key(name, state, 0), tensor.numel()) for name, state, tensor in part)
            name = f"part_{number:05d}.safetensors"
            written = write_synced(directory / name, chunks_of(layout, (tensor for *_, tensor in part)))
            records.append(FileRecord(name, *written, group.host))
            ranges_of_files.append([(n, tuple(t.shape), 0, t.numel()) for n, state, t in part if state == states[0]])
        return records

    def index() -> dict[str, TensorRecord]:
        return index_of(ranges_of_files)

    write_transaction(checkpoints, group, Contents(progress, scalars, tokenizer, states), write_files, index)
    directory = step_directory(checkpoints, progress.step)
    attempt(point_latest, checkpoints, directory)  # a convenience: the checkpoint exists without it
    return directory


def rank_file_name(rank: int) -> str:
    """Name of the file that a rank of a run writes."""
    return f"rank_{rank:05d}.safetensors"


def owned_partitions(engine: Engine) -> list[StatePartition]:
    """What this rank saves."""
    return [partition for partition in engine.partitions() if not partition.is_saved_elsewhere]


def ranges_of(owned: Sequence[StatePartition]) -> list[Range]:
    """What the file of `owned` holds, for the index."""
    return [[one.name, list(one.shape), one.offset, one.length] for one in owned]


def layout_of(owned: Sequence[StatePartition]) -> FileLayout:
    """The file of `owned`."""
    return lay_out((tensor_key(one.name, state, one.offset), one.length) for state in STATES for one in owned)


def live_tensors(owned: Sequence[StatePartition]) -> Iterator[torch.Tensor]:
    """The live tensors in the order of `layout_of`."""
    return (one.tensors[state] for state in STATES for one in owned)


def write_live(path: Path, layout: FileLayout, owned: Sequence[StatePartition], host: str) -> FileRecord:
    """Write a rank's file straight from the live tensors, which must stand still meanwhile."""
    return FileRecord(path.name, *write_synced(path, chunks_of(layout, live_tensors(owned))), host)


def tidy_up(checkpoints: Path, newest_step: int, keep_last: int) -> None:
    """Leaders only. Point `latest` at the checkpoint just written, and remove all but `keep_last` up to it."""
    point_latest(checkpoints, step_directory(checkpoints, newest_step))
    policy = CheckpointConfig(keep_last=keep_last)
    Retention(checkpoints, policy, lambda _: True).remove_superseded(newest_step)


def _parts(
    tensors: Iterable[tuple[str, str, torch.Tensor]], states: tuple[str, ...]
) -> Iterator[list[tuple[str, str, torch.Tensor]]]:
    """Gather whole parameters until they fill a file."""
    part: list[tuple[str, str, torch.Tensor]] = []
    for name, of_parameter in itertools.groupby(tensors, key=lambda one: one[0]):
        held = list(of_parameter)
        found = tuple(state for _, state, _ in held)
        assert sorted(found) == sorted(states), f"{name} comes with {found} in place of {states}"
        part += held
        if sum(tensor.numel() * 4 for *_, tensor in part) >= PART_BYTES:
            yield part
            part = []
    if part:
        yield part
