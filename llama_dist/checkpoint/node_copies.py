"""Carries out the copies between nodes that a plan names, over the process group. Nothing stands under its name before
its checksum was found right.

Every error becomes a fault that all ranks learn of; a rank that fails goes on taking part, so that none waits for it.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
import xxhash
from torch import distributed

from llama_dist.checkpoint.disk import make_directory, sync_directory
from llama_dist.checkpoint.manifest import FileRecord, finish_manifest, is_step_directory, prepare_manifest_file
from llama_dist.checkpoint.placement import Copy
from llama_dist.checkpoint.regular_file import open_regular, read_into

_CHUNK_BYTES = 1 << 24


def open_directory(directory: Path, manifest: bytes) -> str | None:
    """On a node that lacks the manifest: make the directory, marked as unfinished. Answers what went wrong, or None."""
    try:
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True, mode=0o700)
        if not is_step_directory(directory):
            return f"{directory}: is a link, the copy of a checkpoint needs a directory of its own: remove it"
        prepare_manifest_file(directory, manifest)
    except OSError as error:
        return _told(error, directory)
    return None


def close_directory(directory: Path) -> str | None:
    """On the same node, once the files are there: put the manifest in place. Answers what went wrong, or None."""
    try:
        finish_manifest(directory)
    except OSError as error:
        return _told(error, directory)
    return None


def carry_out(copies: Sequence[Copy], directory: Path, files: Sequence[FileRecord], rank: int) -> list[str]:
    """Every rank calls it with the same plan; answers what went wrong with those copies that this rank has part in."""
    faults = []
    for copy in copies:
        record = files[copy.file]
        if rank == copy.source_rank:
            faults.append(_send(directory / record.name, record, copy.target_rank))
        elif rank == copy.target_rank:
            faults.append(_receive(directory / record.name, record, copy.source_rank))
    return [fault for fault in faults if fault]


def _send(path: Path, record: FileRecord, target_rank: int) -> str | None:
    """Send `record.num_bytes` in any case: the other side waits for them, and finds out by the checksum."""
    fault: str | None = None
    descriptor = -1
    chunk = torch.zeros(min(_CHUNK_BYTES, record.num_bytes), dtype=torch.uint8)
    with ExitStack() as stack:
        try:
            descriptor, _ = stack.enter_context(open_regular(path))
        except OSError as error:
            fault = _told(error, path)
        for start in range(0, record.num_bytes, _CHUNK_BYTES):
            part = chunk[: record.num_bytes - start]
            fault = fault or _read(descriptor, part.numpy().data, start, path)
            distributed.send(part, target_rank)
    return fault


def _read(descriptor: int, target: memoryview, start: int, path: Path) -> str | None:
    try:
        read_into(descriptor, target, start)
    except OSError as error:
        return _told(error, path)
    return None


def _receive(path: Path, record: FileRecord, source_rank: int) -> str | None:
    beside = path.with_name(f".{path.name}.copy")
    fault: str | None = None
    digest, num_received = xxhash.xxh3_128(), 0
    descriptor: int | None = None
    chunk = torch.empty(min(_CHUNK_BYTES, record.num_bytes), dtype=torch.uint8)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        fault = _told(error, beside)
    while num_received < record.num_bytes:
        part = chunk[: record.num_bytes - num_received]
        distributed.recv(part, source_rank)
        num_received += part.numel()
        digest.update(part.numpy().data)
        if fault is None and descriptor is not None:
            fault = _written(descriptor, part.numpy().data, beside)
    return _put_in_place(descriptor, beside, path, fault or _wrong(path, record, digest.hexdigest()))


def _written(descriptor: int, content: memoryview, path: Path) -> str | None:
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except OSError as error:
        return _told(error, path)
    return None


def _put_in_place(descriptor: int | None, beside: Path, path: Path, fault: str | None) -> str | None:
    try:
        if descriptor is not None:
            os.fsync(descriptor)
            os.close(descriptor)
        if fault is None:
            beside.rename(path)
            sync_directory(path.parent)
        else:
            beside.unlink(missing_ok=True)
    except OSError as error:
        return fault or _told(error, path)
    return fault


def _wrong(path: Path, record: FileRecord, checksum: str) -> str | None:
    if checksum == record.checksum:
        return None
    return f"{path}: arrived with checksum {checksum}, the manifest says {record.checksum}"


def _told(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror or error}"
