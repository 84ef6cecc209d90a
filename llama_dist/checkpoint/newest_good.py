"""How all ranks come to the same newest good checkpoint, over one disk or over the nodes' own. Loads nothing.

Each rank says what it sees, a few lines of JSON; from then on every rank reckons with the same.
"""

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import distributed

from llama_dist.checkpoint.manifest import (
    CheckpointError,
    Manifest,
    is_step_directory,
    list_candidates,
    parse_manifest,
    read_manifest_file,
    step_directory,
)
from llama_dist.checkpoint.placement import Nodes, arrange_nodes, share_by_bytes
from llama_dist.checkpoint.range_reader import num_threads
from llama_dist.checkpoint.verify import none_good, verify_file
from llama_dist.runtime.process_group import all_gather_json


@dataclass(frozen=True)
class Placement:
    """Where the parts of a good checkpoint are."""

    nodes: Nodes

    intact: tuple[frozenset[int], ...]
    """By node, numbers of the files that are there and whole."""

    nodes_with_manifest: frozenset[int]
    manifest_content: bytes


@dataclass(frozen=True)
class Found:
    """A verified checkpoint, and why newer ones were passed over."""

    directory: Path
    manifest: Manifest
    passed_over: tuple[str, ...]
    placement: Placement
    damaged_steps: tuple[int, ...] = ()
    """The newer ones, by step."""


def agree_on_newest_good(
    checkpoints: Path, rank: int, world_size: int, *, local_rank: int | None = None
) -> Found | None:
    """Collective. The newest good checkpoint, the same on every rank, each of which verifies a share of the bytes.

    With `local_rank` each node has a disk of its own, and a file need be whole on one of them alone. None where no
    checkpoint was ever begun. Raises CheckpointError if there are some and none is good, since the run must not start
    from zero in silence, or if a rank cannot list them.
    """
    members = all_gather_json([socket.gethostname(), 0 if local_rank is None else local_rank])
    assert len(members) == world_size
    nodes = arrange_nodes([(host, local) for host, local in members], is_shared=local_rank is None)
    faults: list[str] = []
    steps = _list_together(checkpoints, nodes)[::-1]
    for number, step in enumerate(steps):
        found = _examine(step_directory(checkpoints, step), rank, nodes, faults)
        if found:
            return replace(found, damaged_steps=tuple(steps[:number]))
    if faults:
        raise none_good(checkpoints, faults)
    return None


def gather_faults(nodes: Nodes, faults: Sequence[str]) -> list[str]:
    """Collective. The faults of all ranks, each once, with the rank that found it where there are several."""
    first_rank: dict[str, int] = {}
    for rank, of_rank in enumerate(all_gather_json(list(faults))):
        for fault in of_rank:
            first_rank.setdefault(fault, rank)
    return [_by_rank(nodes, first_rank[fault], fault) for fault in sorted(first_rank)]


def _list_together(checkpoints: Path, nodes: Nodes) -> list[int]:
    """Collective. The steps that any rank sees: one that appears just now is looked at by all, or by none."""
    steps: list[int] = []
    fault = None
    try:
        steps = list_candidates(checkpoints)
    except OSError as error:
        fault = f"{error.filename or checkpoints}: cannot be listed: {error.strerror or error}"
    faults = gather_faults(nodes, [fault] if fault else [])
    if faults:
        raise CheckpointError("the checkpoints cannot be looked for:\n  " + "\n  ".join(faults))
    return sorted({step for of_rank in all_gather_json(steps) for step in of_rank})


def _examine(directory: Path, rank: int, nodes: Nodes, passed_over: list[str]) -> Found | None:
    """Collective. The checkpoint, if it is good; else add what is wrong with it to `passed_over`."""
    content, fault = _manifest_of_node(directory, rank, nodes)
    checksum = xxhash.xxh3_128(content).hexdigest() if content is not None else None
    told: list[Any] = all_gather_json([checksum, len(content or b""), fault])
    holders: dict[str, list[int]] = {}
    for leader in nodes.leaders:
        if told[leader][0] is not None:
            holders.setdefault(told[leader][0], []).append(leader)
    if not holders:
        passed_over += [_by_rank(nodes, leader, told[leader][2]) for leader in nodes.leaders]
        return None
    # Where nodes kept manifests of the same step from two lives of the run, the one that more nodes have goes first.
    for of_content in sorted(holders.values(), key=lambda leaders: (-len(leaders), leaders)):
        shared = _broadcast(content, told[of_content[0]][1], of_content[0], rank)
        try:
            manifest = parse_manifest(shared, directory)
        except CheckpointError as error:
            passed_over.append(_by_rank(nodes, of_content[0], str(error)))
            continue
        intact, faults = _verify_together(directory, manifest, rank, nodes)
        if not faults:
            with_manifest = frozenset(nodes.node_of_rank[leader] for leader in of_content)
            return Found(directory, manifest, tuple(passed_over), Placement(nodes, intact, with_manifest, shared))
        passed_over += faults
    return None


def _manifest_of_node(directory: Path, rank: int, nodes: Nodes) -> tuple[bytes | None, str | None]:
    """On the first rank of a node, its manifest's content or what is wrong with it."""
    if rank not in nodes.leaders:
        return None, None
    try:
        return read_manifest_file(directory), None
    except CheckpointError as error:
        return None, str(error)


def _broadcast(content: bytes | None, num_bytes: int, source: int, rank: int) -> bytes:
    """Collective. The source's content on every rank."""
    if num_bytes == 0:
        return b""
    buffer = torch.empty(num_bytes, dtype=torch.uint8)
    if rank == source:
        assert content is not None
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    distributed.broadcast(buffer, source)
    return buffer.numpy().tobytes()


def _verify_together(
    directory: Path, manifest: Manifest, rank: int, nodes: Nodes
) -> tuple[tuple[frozenset[int], ...], list[str]]:
    """Collective. Numbers of the whole files by node, and why some file is whole on none."""
    is_shared = len(nodes.leaders) == 1
    results: list[Any] = all_gather_json(_verify_share(directory, manifest, rank, nodes, is_shared))
    intact: list[set[int]] = [set() for _ in nodes.leaders]
    found_wrong: dict[int, list[str]] = {}
    for of_rank, (whole, wrong) in enumerate(results):
        intact[nodes.node_of_rank[of_rank]].update(whole)
        for file, fault in wrong:
            found_wrong.setdefault(file, []).append(_by_rank(nodes, of_rank, fault))
    faults: list[str] = []
    for file in sorted(set(range(len(manifest.files))).difference(*intact)):
        record = manifest.files[file]
        lost = f"{directory / record.name}: is whole on no node, host {record.host or '?'} wrote it: bring that back"
        faults += found_wrong.get(file, []) + ([] if is_shared else [lost])
    return tuple(frozenset(files) for files in intact), faults


def _verify_share(
    directory: Path, manifest: Manifest, rank: int, nodes: Nodes, is_shared: bool
) -> tuple[list[int], list[tuple[int, str]]]:
    """Verify this rank's share of the files of its node: (whole, [(file, fault)])."""
    records = manifest.files
    sizes = {
        file: record.num_bytes
        for file, record in enumerate(records)
        if is_shared or (is_step_directory(directory) and os.path.lexists(directory / record.name))
    }
    shares = share_by_bytes(sizes, nodes.ranks_of(nodes.node_of_rank[rank]))
    mine = [file for file, of_rank in shares.items() if of_rank == rank]
    keys = manifest.keys_of(mine)
    with ThreadPoolExecutor(num_threads()) as executor:
        faults = list(executor.map(lambda file: verify_file(directory, records[file], keys[file]), mine))
    wrong = [(file, fault) for file, fault in zip(mine, faults, strict=True) if fault]
    return [file for file, fault in zip(mine, faults, strict=True) if not fault], wrong


def _by_rank(nodes: Nodes, rank: int, fault: str) -> str:
    return fault if len(nodes.node_of_rank) == 1 else f"{nodes.name_of_rank(rank)}: {fault}"
