"""The process group of an attempt, and the small messages that ranks agree by."""

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from data_pipeline.config import ReportedError
from llama_dist.runtime.world import World


class PeerLostError(ReportedError):
    """A collective failed: a peer died, the network broke, or a rank did not come in time. The run may be retried."""

    exit_code = 75


@contextlib.contextmanager
def process_group(world: World, timeout_seconds: float) -> Iterator[None]:
    """Join the world: NCCL where there is CUDA, gloo otherwise, with a time-out on every collective."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
    distributed.init_process_group(
        backend, rank=world.rank, world_size=world.world_size, timeout=timedelta(seconds=timeout_seconds)
    )
    yield
    # Not after an error: a lost peer would be waited for.
    distributed.destroy_process_group()


@contextlib.contextmanager
def peers_named(world: World, where: Callable[[], str]) -> Iterator[None]:
    """Turn a failed collective into PeerLostError with the rank and the place; other errors pass through."""
    try:
        yield
    except distributed.DistError as error:
        raise _peer_lost(world, where(), error) from error
    except RuntimeError as error:
        # gloo reports a lost peer as a bare RuntimeError that names its own source file.
        if "gloo" not in str(error).lower() and "connection" not in str(error).lower():
            raise
        raise _peer_lost(world, where(), error) from error


def all_gather_json(value: Any, group: distributed.ProcessGroup | None = None) -> list[Any]:
    """Collective over `group`, by default over all. Every rank's `value`, in rank order, as JSON over CPU tensors."""
    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    world_size = distributed.get_world_size(group)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
    distributed.all_gather(sizes, torch.tensor([payload.numel()]), group=group)
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: payload.numel()] = payload
    gathered = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world_size)]
    distributed.all_gather(gathered, padded, group=group)
    return [json.loads(buffer[: int(size)].numpy().tobytes()) for buffer, size in zip(gathered, sizes, strict=True)]


def broadcast_json(value: Any, group: distributed.ProcessGroup | None = None) -> Any:
    """Collective over `group`. Rank 0's `value` on every rank; what the others pass is not read."""
    return all_gather_json(value if distributed.get_rank(group) == 0 else None, group)[0]


def any_rank(flag: bool, group: distributed.ProcessGroup | None = None) -> bool:
    """Collective over `group`. Whether `flag` is true on at least one rank."""
    votes = torch.tensor([int(flag)])
    distributed.all_reduce(votes, op=distributed.ReduceOp.MAX, group=group)
    return bool(votes.item())


def _peer_lost(world: World, where: str, error: BaseException) -> PeerLostError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return PeerLostError(f"rank {world.rank} of {world.world_size} lost a peer {where}: {first_line}")
