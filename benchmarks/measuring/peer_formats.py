"""The corpus's tokens in each peer's format, written once under build/, and a reader of each.

Every reader is a function that answers an iterator of shuffled int64 [8, 2048] batches, in process or over workers.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data_pipeline.config import DataConfig, SourceConfig
from data_pipeline.manifest import read_manifest
from data_pipeline.shard_reader import read_batches
from data_pipeline.stream import open_stream
from measuring.corpus import FOLDER, dataset_directory

ROWS, LENGTH = 8, 2048
Batches = Iterator[Any]


def documents() -> Iterator[np.ndarray]:
    """Yield each training document of our dataset, uint16 [tokens]."""
    directory = dataset_directory()
    for shard in read_manifest(directory).train:
        for batch in read_batches(directory / shard.file, "uint16"):
            yield from np.split(batch.tokens, batch.bounds[1:-1])


def token_line() -> np.ndarray:
    """Return the training tokens end to end, uint16, memory-mapped."""
    path = FOLDER / "line.bin"
    if not path.exists():
        np.concatenate(list(documents())).tofile(path)
    return np.memmap(path, np.uint16, "r")


def num_sequences() -> int:
    """Sequences of one more token than the batches are long."""
    return len(token_line()) // (LENGTH + 1)


def ours(*, isolate: bool, consumed: int = 0) -> Batches:
    """Our stream, micro-batch by micro-batch, with or without positions."""
    stream = open_stream(our_config(isolate=isolate))
    while True:
        (batch,) = stream.micro_batches(consumed, dp_rank=0, dp_size=1, micro_batch_sequences=ROWS, num_micro_batches=1)
        consumed += ROWS
        yield batch.tokens, batch.labels


def our_config(*, isolate: bool) -> DataConfig:
    """The corpus at 2048 tokens."""
    sources = [SourceConfig(path=str(dataset_directory()))]
    return DataConfig(sources=sources, sequence_length_tokens=LENGTH, isolate_documents=isolate)


class MegatronLike(Dataset[torch.Tensor]):
    """What Megatron's index does: a permutation of sequences, a slice of a memory map, widened to int64."""

    def __init__(self) -> None:
        self._line = token_line()
        self._order = np.random.default_rng(0).permutation(len(self._line) // (LENGTH + 1))

    def __len__(self) -> int:
        return len(self._order)

    def row(self, number: int) -> np.ndarray:
        """Return int64 [2049]."""
        start = int(self._order[number % len(self._order)]) * (LENGTH + 1)
        return self._line[start : start + LENGTH + 1].astype(np.int64)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.row(number))


def megatron(consumed: int = 0) -> Batches:
    """In process: rows stacked, inputs and labels."""
    data = MegatronLike()
    while True:
        rows = np.stack([data.row(number) for number in range(consumed, consumed + ROWS)])
        consumed += ROWS
        yield np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])


def loader(dataset: Any, num_workers: int, *, shuffle: bool) -> Batches:
    """Any dataset under PyTorch's loader, over and over."""
    while True:
        yield from DataLoader(dataset, ROWS, shuffle=shuffle, num_workers=num_workers, drop_last=True)


def hugging_face() -> Any:
    """Rows of 2049 tokens as a saved dataset."""
    import datasets  # noqa: PLC0415

    folder = FOLDER / "hugging_face"
    if not folder.exists():
        write_hugging_face(folder)
    return datasets.load_from_disk(str(folder)).with_format("torch", dtype=torch.int64)


def hf_map(num_workers: int) -> Batches:
    """Map-style."""
    return (batch["tokens"] for batch in loader(hugging_face(), num_workers, shuffle=True))


def hf_iterable(num_workers: int) -> Batches:
    """Iterable, with a buffer of 1000."""
    data = hugging_face().with_format(None).to_iterable_dataset(num_shards=8).shuffle(seed=0, buffer_size=1000)
    data = data.with_format("torch")
    return (batch["tokens"] for batch in loader(data, num_workers, shuffle=False))


def mosaic(num_workers: int) -> Batches:
    """MosaicML streaming over local MDS shards."""
    import streaming  # noqa: PLC0415

    folder = FOLDER / "mds"
    if not (folder / "index.json").exists():
        write_mds(folder)
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=ROWS)
    return (batch["tokens"] for batch in loader(data, num_workers, shuffle=False))


def lit(num_workers: int) -> Batches:
    """Litdata's token loader."""
    import litdata  # noqa: PLC0415

    folder = FOLDER / "litdata"
    if not (folder / "index.json").exists():
        write_litdata(folder)
    data = litdata.StreamingDataset(
        str(folder), item_loader=litdata.TokensLoader(block_size=LENGTH + 1), shuffle=True, drop_last=True
    )
    while True:
        yield from litdata.StreamingDataLoader(data, batch_size=ROWS, num_workers=num_workers)


def rows() -> np.ndarray:
    """Return the token line cut into uint16 [sequences, 2049]."""
    return np.asarray(token_line()[: num_sequences() * (LENGTH + 1)]).reshape(-1, LENGTH + 1)


def write_hugging_face(folder: Path) -> None:
    """Rows through Arrow tables, the fastest way in."""
    import datasets  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows().ravel()), LENGTH + 1)
    datasets.Dataset(pa.table({"tokens": values})).save_to_disk(str(folder))


def write_mds(folder: Path) -> None:
    """Rows as int32 arrays of a fixed shape."""
    import streaming  # noqa: PLC0415

    columns = {"tokens": f"ndarray:int64:{LENGTH + 1}"}
    with streaming.MDSWriter(columns=columns, out=str(folder), hashes=["xxh3_64"]) as writer:
        for row in rows():
            writer.write({"tokens": row.astype(np.int64)})


def write_litdata(folder: Path) -> None:
    """Documents through its own writer, one chunk after another."""
    import litdata  # noqa: PLC0415
    from litdata.streaming.writer import BinaryWriter  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    writer = BinaryWriter(
        str(folder), chunk_size=(LENGTH + 1) * 4096, item_loader=litdata.TokensLoader(block_size=LENGTH + 1)
    )
    for number, document in enumerate(documents()):
        writer.add_item(number, torch.from_numpy(document.astype(np.int32)))
    writer.done()
    writer.merge(1)


READERS: dict[str, Callable[[int], Batches]] = {
    "Megatron-like": lambda workers: loader(MegatronLike(), workers, shuffle=True) if workers else megatron(),
    "litdata": lit,
    "HF map-style": hf_map,
    "HF iterable": hf_iterable,
    "MosaicML": mosaic,
}
