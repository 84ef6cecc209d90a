"""One copy of a rank's state in host memory, which is the image of the file to be written.

Laid out once and used again by every save, so that a snapshot is a plain copy into warm memory. Writes no file.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from llama_dist.checkpoint.rank_file import FileLayout, cut

_NUM_COPY_THREADS = 4
"""Threads of one snapshot of host tensors: one alone does not fill the memory's bandwidth. Four took half the time."""


class StagingBuffer:
    """The image of one file. Not for several threads: a snapshot begins after the last image was read."""

    def __init__(self, layout: FileLayout) -> None:
        self._layout = layout
        self._image = torch.empty(layout.num_bytes, dtype=torch.uint8)  # takes no memory before it is written to
        self._slots = [
            self._image[slot.start_byte : slot.start_byte + 4 * slot.num_elements].view(torch.float32)
            for slot in layout.slots
        ]
        self._event: torch.cuda.Event | None = None
        self._warming: threading.Thread | None = None
        self._has_header = False

    def warm(self, device: torch.device) -> None:
        """Take the memory now, in the background: the first save would wait for the kernel to hand out its pages."""
        self._warming = threading.Thread(target=self._take_memory, args=(device,), daemon=True)
        self._warming.start()

    def snapshot(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy the live `tensors`, in the order of the layout's slots, into the image.

        Host tensors are copied when this returns. Copies from CUDA are ordered on the current stream before whatever
        the caller does to the tensors next; `chunks` waits for them.
        """
        if self._warming:
            self._warming.join()
            self._warming = None
        if not self._has_header:
            self._write_header()
        pairs = list(zip(self._slots, tensors, strict=True))
        assert all(slot.numel() == tensor.numel() for slot, tensor in pairs), "the partitions have changed"
        on_host = [(slot, tensor) for slot, tensor in pairs if tensor.device.type == "cpu"]
        # On this thread: another one would have another current stream.
        for slot, tensor in pairs:
            if tensor.device.type != "cpu":
                slot.copy_(tensor.detach().view(-1), non_blocking=True)
        self._event = None
        if len(on_host) < len(pairs):
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        _copy_all(on_host)

    def chunks(self) -> Iterator[memoryview]:
        """Yield the file's content, once the copies of the last snapshot have arrived."""
        if self._event:
            self._event.synchronize()
        yield from cut(self._image.numpy().data)

    def _take_memory(self, device: torch.device) -> None:
        self._image.zero_()
        if device.type == "cuda":
            # Not `pin_memory`: its allocator rounds up to a power of two, which can be a second copy. If the kernel
            # refuses, the copies are slower and as safe.
            torch.cuda.set_device(device)
            runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            runtime.cudaHostRegister(self._image.data_ptr(), self._image.numel(), 0)
        self._write_header()

    def _write_header(self) -> None:
        header = self._layout.header
        self._image[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        self._has_header = True


def _copy_all(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy (target, source) pairs in host memory, spread over threads in runs of about equal size."""
    num_threads = min(_NUM_COPY_THREADS, len(os.sched_getaffinity(0)))
    share = sum(target.numel() for target, _ in pairs) // num_threads + 1
    runs: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[]]
    size = 0
    for target, source in _split(pairs, share):
        if size >= share:
            runs.append([])
            size = 0
        runs[-1].append((target, source))
        size += target.numel()
    with ThreadPoolExecutor(num_threads) as executor:
        list(executor.map(_copy_run, runs))


def _split(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], most_elements: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cut large tensors, so that one alone does not keep one thread busy."""
    for target, source in pairs:
        flat = source.detach().reshape(-1)
        for start in range(0, target.numel(), most_elements):
            yield target[start : start + most_elements], flat[start : start + most_elements]


def _copy_run(run: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for target, source in run:
        target.copy_(source)
