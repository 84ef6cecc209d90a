"""Our stream as a map-style `torch.utils.data.Dataset`, for people who want a DataLoader.

The trainer does not use it: gathering in process is faster than handing tensors from worker processes. The order of the
samples is `elastic_sampler.py`'s, or any other sampler's.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.manifest import Split
from data_pipeline.stream import TokenStream, open_stream

Sample = dict[str, torch.Tensor]


class StreamDataset(Dataset[Sample]):
    """Sample number g as item g. Worker processes open the data for themselves."""

    def __init__(self, config: DataConfig, *, split: Split = "train", num_samples: int | None = None) -> None:
        """Open the data. `num_samples` is the length: by default one pass over all sources; training may be longer."""
        self._config = config
        self._split: Split = split
        self._stream: TokenStream | None = open_stream(config, split=split)
        self._process_id = os.getpid()
        self._parents_stream: TokenStream | None = None
        self._num_samples = self._stream.num_sequences if num_samples is None else num_samples
        if split == "validation" and self._num_samples > self._stream.num_sequences:
            raise DataError(
                f"num_samples {num_samples}: the held-out text has {self._stream.num_sequences} sequences, "
                "each read once"
            )

    @property
    def stream(self) -> TokenStream:
        """The stream of this process; its `state` and `check_state` tell other data or another order apart."""
        if self._stream is None or self._process_id != os.getpid():
            # A fork copies neither the thread that prefetches nor a store's connections. Kept, since to forget the
            # parent's stream would wait for that thread.
            self._parents_stream = self._stream
            self._stream, self._process_id = open_stream(self._config, split=self._split), os.getpid()
        return self._stream

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, number: int) -> Sample:
        """Return `tokens`, `labels` and, if documents are isolated, `positions`, int64 [T]; `sample_id`, int64 []."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Return many samples of one read, as PyTorch's loader asks for those of a batch sampler."""
        outside = next((number for number in numbers if not 0 <= number < self._num_samples), None)
        if outside is not None:
            # Python ends a plain `for` over the dataset at this error.
            raise IndexError(f"sample {outside}: there are {self._num_samples}, 0 to {self._num_samples - 1}")
        batch = self.stream.read(np.asarray(numbers, dtype=np.int64))
        # The stream fills the same arrays again at its next read, so samples own their memory.
        columns = {"tokens": batch.tokens, "labels": batch.labels, "sample_id": batch.sample_ids}
        if batch.positions is not None:
            columns["positions"] = batch.positions
        tensors = {name: torch.from_numpy(np.array(column, dtype=np.int64)) for name, column in columns.items()}
        return [{name: tensor[row] for name, tensor in tensors.items()} for row in range(len(numbers))]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: a worker process opens its own."""
        return self.__dict__ | {"_stream": None, "_parents_stream": None}
