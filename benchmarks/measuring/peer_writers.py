"""Writers of the same tokenized documents: ours, as a preparation writes them, and each peer's.

Every writer takes a folder that is not there yet, and leaves whole files with, where the peer has them, checksums.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.config import PreparationConfig
from data_pipeline.manifest import SHARDS_NAME
from data_pipeline.preparation.shard_writer import ShardWriter
from measuring.peer_formats import documents

# What `Dataset.map` hands to its writer, and what the writer writes at once.
_HF_BATCH_DOCUMENTS = 1000
_LITDATA_CHUNK_BYTES = "64MB"


@cache
def documents_in_memory() -> list[tuple[npt.NDArray[np.uint16], bytes]]:
    """Return each training document of our dataset, uint16 [tokens] in memory of its own, and a name of 16 bytes."""
    tokens = (np.array(document) for document in documents())
    return [(one, xxhash.xxh3_128_digest(one.tobytes())) for one in tokens]


def write_ours(folder: Path) -> None:
    """One shard after another, each hashed whole and by record batch, and synced to the disk."""
    (folder / SHARDS_NAME).mkdir(parents=True)
    config = PreparationConfig()
    waiting, number = iter(documents_in_memory()), 0
    document = next(waiting, None)
    while document is not None:
        writer = ShardWriter(
            folder,
            f"train-{number:05d}-000.arrow",
            token_dtype="uint16",  # noqa: S106 - no password
            tokens_per_record_batch=config.tokens_per_record_batch,
        )
        with writer:
            while document is not None and writer.num_tokens * 2 < config.shard_bytes:
                tokens, name = document
                writer.append(tokens, name, 4 * len(tokens))
                document = next(waiting, None)
        assert writer.entry().checksum
        number += 1


def write_hf_generator(folder: Path, *, as_lists: bool) -> None:
    """`Dataset.from_generator` of Python lists, as tokenizers answer them, or of arrays.

    Its fingerprint is given, so that it hashes no argument; with features declared, arrays take 100 times as long.
    """
    import datasets  # noqa: PLC0415

    datasets.disable_progress_bars()

    def examples() -> Any:
        for tokens, _ in documents_in_memory():
            yield {"tokens": tokens.tolist() if as_lists else tokens}

    written = datasets.Dataset.from_generator(examples, cache_dir=str(folder), fingerprint="written")
    assert len(written) == len(documents_in_memory())


def write_hf_arrow(folder: Path) -> None:
    """`ArrowWriter`, which `Dataset.map` writes through, in batches of the size that `map` has."""
    import datasets  # noqa: PLC0415
    from datasets.arrow_writer import ArrowWriter  # noqa: PLC0415

    folder.mkdir(parents=True)
    tokens = [tokens for tokens, _ in documents_in_memory()]
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("uint16"))})
    with ArrowWriter(features=features, path=str(folder / "data.arrow")) as writer:
        for first in range(0, len(tokens), _HF_BATCH_DOCUMENTS):
            writer.write_batch({"tokens": tokens[first : first + _HF_BATCH_DOCUMENTS]})
        num_examples, _ = writer.finalize()
    assert num_examples == len(tokens)


def write_mosaic(folder: Path, *, encoding: str, hash_name: str) -> None:
    """`MDSWriter` without compression, its shards hashed; `encoding` is that of the column."""
    import streaming  # noqa: PLC0415

    kind, _, dtype = encoding.partition(":")
    with streaming.MDSWriter(columns={"tokens": encoding}, out=str(folder), hashes=[hash_name]) as writer:
        for tokens, _ in documents_in_memory():
            writer.write({"tokens": tokens.tobytes() if kind == "bytes" else tokens.astype(dtype, copy=False)})


def write_litdata(folder: Path) -> None:
    """The writer under litdata's `optimize`, in one process, for its token loader; it has no checksums."""
    import litdata  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from litdata.streaming.writer import BinaryWriter  # noqa: PLC0415

    folder.mkdir(parents=True)
    writer = BinaryWriter(str(folder), chunk_bytes=_LITDATA_CHUNK_BYTES, item_loader=litdata.TokensLoader(2049))
    for number, (tokens, _) in enumerate(documents_in_memory()):
        writer.add_item(number, torch.from_numpy(tokens))
    writer.done()
    writer.merge(1)


OURS = "ours, with checksums"
# First the one that the ratios call usual: a choice of ours, since users do all of these. Then leaner ones.
HUGGING_FACE: dict[str, Callable[[Path], None]] = {
    "HF from_generator, lists": lambda folder: write_hf_generator(folder, as_lists=True),
    "HF from_generator, arrays": lambda folder: write_hf_generator(folder, as_lists=False),
    "HF ArrowWriter, arrays": write_hf_arrow,
}
MOSAIC: dict[str, Callable[[Path], None]] = {
    "MDS ndarray:int32, sha1": lambda folder: write_mosaic(folder, encoding="ndarray:int32", hash_name="sha1"),
    "MDS ndarray:int32, xxh128": lambda folder: write_mosaic(folder, encoding="ndarray:int32", hash_name="xxh128"),
    "MDS ndarray:uint16, xxh128": lambda folder: write_mosaic(folder, encoding="ndarray:uint16", hash_name="xxh128"),
    "MDS bytes, xxh128": lambda folder: write_mosaic(folder, encoding="bytes", hash_name="xxh128"),
}
WRITERS = {OURS: write_ours} | HUGGING_FACE | MOSAIC | {"litdata": write_litdata}
