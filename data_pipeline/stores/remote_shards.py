"""The shards of one split of a remote dataset: each record batch fetched when first needed, verified, and mapped.

Which of them stay is `windows.py`'s and the cache's to say.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import Split
from data_pipeline.shard_files import map_file
from data_pipeline.stores.cache_directory import NoRoomError, Wanted
from data_pipeline.stores.cache_layout import BatchKey, batch_path
from data_pipeline.stores.eviction import NOW, OnceThrough, Uses
from data_pipeline.stores.remote_dataset import Origins, RemoteDataset
from data_pipeline.stores.remote_store import ByteRange

# Another rank may evict what was just fetched, where two ranks stand far apart; not this often.
_MOST_FETCHES = 20
# Files whose hash is remembered, some 3 MB; what is forgotten is hashed once more.
_MOST_VERIFIED = 16_384


class RemoteShardFiles:
    """Gives record batches like `shard_files.ShardFiles`, through the cache."""

    def __init__(self, dataset: RemoteDataset, split: Split) -> None:
        self.dataset = dataset
        # What a reader holds takes disk even when it was evicted: within a window nothing is, held-out text has none.
        self.most_held_batches = 64 if split == "train" else 4
        self.table = dataset.manifest.table(split)
        self.shard_names = [Path(name).stem for name in self.table.columns.files.to_pylist()]
        self.uses: Uses = OnceThrough([dataset.fingerprint], self.shard_names)
        self.origins: Origins = dataset.origins
        # By checksum: the file that had it. Bounded, for a run passes through more batches than memory has room for.
        self._verified: dict[str, tuple[int, int]] = {}

    def record_batch(self, shard_number: int, batch_number: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Return the bytes of the batch, and where in the shard's file they begin.

        Raises DataError or StorageError, with URL and bytes, if it cannot be had or is damaged in the store.
        """
        shard = self.table[shard_number]
        batch = shard.record_batches[batch_number]
        path = self.path(shard_number, batch_number)
        for _ in range(_MOST_FETCHES):
            try:
                self.fetch(shard_number, batch_number, next_use=NOW)
            except NoRoomError as error:
                raise StorageError(f"{error}: raise data.cache.max_bytes") from None
            try:
                content = map_file(path, batch.length_bytes)
            except DataError:
                continue  # evicted in between
            if self._is_intact(path, content, batch.checksum):
                return content, batch.offset_bytes
            path.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: was taken away or found damaged {_MOST_FETCHES} times: see whether the disk is sound, and who "
            "else writes there, or raise data.cache.max_bytes"
        )

    def fetch(self, shard_number: int, batch_number: int, *, next_use: float, is_patient: bool = True) -> bool:
        """Have the batch in the cache, by this process's work or by another's; see `CacheDirectory.obtain`."""
        shard = self.table[shard_number]
        batch = shard.record_batches[batch_number]
        wanted = ByteRange(shard.file, batch.offset_bytes, batch.length_bytes, shard.num_bytes, batch.checksum)
        return self.dataset.cache.obtain(
            Wanted(
                self.path(shard_number, batch_number),
                batch.length_bytes,
                f"{self.dataset.url}/{shard.file} {wanted}",
                next_use,
            ),
            lambda: self.dataset.store.read_range(wanted),
            self.uses,
            self.origins,
            is_patient=is_patient,
        )

    def path(self, shard_number: int, batch_number: int) -> Path:
        """Return where the batch lies in the cache."""
        key = BatchKey(self.dataset.fingerprint, self.shard_names[shard_number], batch_number)
        return batch_path(self.dataset.cache.root, key)

    def _is_intact(self, path: Path, content: npt.NDArray[np.uint8], checksum: str) -> bool:
        """Hash a file once: it was verified on arrival, but a machine that died may have lost it since."""
        try:
            status = os.stat(path)  # noqa: PTH116  (a Path takes five times as long)
        except FileNotFoundError:
            return checksum_bytes(content.data) == checksum
        stamp = (status.st_ino, status.st_mtime_ns)
        if self._verified.get(checksum) != stamp:
            if checksum_bytes(content.data) != checksum:
                return False
            if len(self._verified) >= _MOST_VERIFIED:
                self._verified.clear()
            self._verified[checksum] = stamp
        return True
