"""An all-reduce between this node and one other: latency and bandwidth. The one file of the probe that loads torch.

Both sides of a pair are asked at the same time. Gloo where there is no GPU, else NCCL on the first GPU.
"""

import math
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from cluster.interfaces import address_towards, interface_of

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store  # type: ignore[attr-defined]

_LATENCY_REPEATS = 20
_BANDWIDTH_REPEATS = 3
_SIZES_BYTES = (1 << 16, 1 << 19, 1 << 22, 1 << 24)
_MAX_NEXT_SECONDS = 1.0  # what the next size may take; on a slow link a small one must do
_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True)
class ReduceTask:
    """One pair's measurement, as one of its two sides sees it. The side of rank 0 has opened the store."""

    backend: str
    peer: str
    store_host: str
    store_port: int
    rank: int
    timeout_seconds: float


@dataclass(frozen=True)
class LinkSpeed:
    """What both sides agree on: the slower one's time counts."""

    latency_seconds: float
    """Median time of an all-reduce of 4 bytes."""

    bytes_per_second: float
    """Size over time of the largest all-reduce done: for two ranks, what each sends and receives."""

    num_bytes: int


class PairReducer:
    """Holds the store of the next measurement. Any fault of torch is the caller's to catch."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._chosen_by_user = frozenset(name for name in _INTERFACE_VARIABLES if name in os.environ)

    def load(self) -> str:
        """Load torch, which takes seconds, so that a measurement does not wait for it; answers its version."""
        import torch  # noqa: PLC0415 - only where all-reduces are measured
        from torch import distributed  # noqa: F401, PLC0415 - the same

        return str(torch.__version__)

    def open_store(self) -> int:
        """Open a store on a free port, for the measurement in which this side is rank 0; answers the port."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415 - takes seconds

        store = TCPStore("localhost", 0, world_size=2, is_master=True, wait_for_workers=False)
        self._store = store
        return int(store.port)

    def measure(self, task: ReduceTask) -> LinkSpeed:
        """Meet the peer, measure, part."""
        from torch import distributed  # noqa: PLC0415 - takes seconds
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415 - the same

        timeout = timedelta(seconds=task.timeout_seconds)
        self._choose_interface(task.peer)
        store, self._store = self._store, None
        if task.rank != 0:
            store = TCPStore(task.store_host, task.store_port, 2, is_master=False, timeout=timeout)
        assert store is not None, "rank 0 was not asked to open its store"
        distributed.init_process_group(task.backend, store=store, rank=task.rank, world_size=2, timeout=timeout)
        try:
            return _measure_link(_device(task.backend))
        finally:
            distributed.destroy_process_group()

    def _choose_interface(self, peer: str) -> None:
        """Name the interface that leads to the peer, unless the user named one.

        Left alone, gloo takes the one of the host's own name, which on many machines is the loopback.
        """
        interface = interface_of(address_towards(peer))
        for name in _INTERFACE_VARIABLES:
            if interface is not None and name not in self._chosen_by_user:
                os.environ[name] = interface


def _device(backend: str) -> "torch.device":
    import torch  # noqa: PLC0415 - takes seconds

    return torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")


def _measure_link(device: "torch.device") -> LinkSpeed:
    latency = _time(4, _LATENCY_REPEATS, device)
    for num_bytes, next_bytes in pairwise((*_SIZES_BYTES, math.inf)):
        seconds = _time(int(num_bytes), _BANDWIDTH_REPEATS, device)
        if seconds * next_bytes / num_bytes * (_BANDWIDTH_REPEATS + 1) > _MAX_NEXT_SECONDS:
            break  # both sides know the same time, and stop together
    return LinkSpeed(latency, num_bytes / seconds, int(num_bytes))


def _time(num_bytes: int, repeats: int, device: "torch.device") -> float:
    """Median seconds of an all-reduce, of which the slower side's is taken. The first, which sets up, is left out."""
    import torch  # noqa: PLC0415 - takes seconds
    from torch import distributed  # noqa: PLC0415 - takes seconds

    values = torch.zeros(max(1, num_bytes // 4), dtype=torch.float32, device=device)
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        distributed.all_reduce(values)
        values[0].item()  # on a GPU, waits until it is done
        seconds.append(time.perf_counter() - begin)
    agreed = torch.tensor([median(seconds[1:])], dtype=torch.float64, device=device)
    distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
    return max(float(agreed.item()), 1e-9)
