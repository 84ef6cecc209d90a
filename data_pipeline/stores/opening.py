"""What a stream needs to read remote sources: the node's cache, its datasets, and the windows to fetch for.

The one entrance to this package for `stream.py` and `source.py`.
"""

from collections.abc import Sequence
from pathlib import Path

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.manifest import Split
from data_pipeline.sequences import Sequences
from data_pipeline.stores.cache_directory import CacheDirectory
from data_pipeline.stores.cache_layout import list_files
from data_pipeline.stores.prefetch import Prefetcher
from data_pipeline.stores.remote_dataset import RemoteDataset
from data_pipeline.stores.remote_shards import RemoteShardFiles
from data_pipeline.stores.waiting import RetryPolicy
from data_pipeline.stores.windows import BATCHES_BESIDE_WINDOW, RemoteGroups, WindowUses, least_cache_bytes
from data_pipeline.token_line import TokenLine
from data_pipeline.training_order import TrainingOrder


class RemoteSources:
    """The remote sources of one stream."""

    def __init__(self, config: DataConfig, policy: RetryPolicy | None = None) -> None:
        """Raises DataError if the config lacks what remote sources need, or the cache directory is somebody else's."""
        first = next(source.path for source in config.sources if source.is_remote)
        if config.cache is None:
            raise DataError(
                f"{first}: a URL is read through a cache on this node: set data.cache.directory, and "
                "data.cache.max_bytes to twice data.shuffle_window_bytes or more"
            )
        if config.shuffle_window_bytes is None:
            raise DataError(
                f"{first}: shuffled over a whole epoch, every batch would come from everywhere: set "
                f"data.shuffle_window_bytes, for example to {max(1, config.cache.max_bytes // 3)}, a third of "
                "data.cache.max_bytes"
            )
        self._config = config
        self._window_bytes = config.shuffle_window_bytes
        self._policy = policy or RetryPolicy()
        self._cache = CacheDirectory(Path(config.cache.directory), config.cache.max_bytes, self._policy)
        self._files: dict[int, RemoteShardFiles] = {}

    def open_dataset(self, number: int, split: Split) -> RemoteShardFiles:
        """Open source `number` of the config. Raises DataError or StorageError that names its URL."""
        dataset = RemoteDataset(self._config.sources[number].path, self._cache, self._policy)
        if self._config.packing == "best_fit":
            dataset.fetch_packs(split, self._config.sequence_length_tokens)
        self._files[number] = RemoteShardFiles(dataset, split)
        return self._files[number]

    def follow(self, order: TrainingOrder, sequences: Sequence[Sequences]) -> "WindowFollower":
        """Fetch for `order` from now on. Raises DataError, with the number needed, if the cache is too small."""
        # A pack ends inside its group; the end of the line's last sequence in a shard lies in the next one.
        num_spill_tokens = self._config.sequence_length_tokens if self._config.packing == "concat" else 0
        groups = [
            RemoteGroups.of(number, files, sequences[number].group_bytes, num_spill_tokens)
            for number, files in self._files.items()
        ]
        self._check_size(least_cache_bytes(order, groups, self._kept_bytes()))
        uses = WindowUses(order, groups)
        origins = next(iter(self._files.values())).dataset.origins
        for files in self._files.values():
            origins = origins.join(files.dataset.origins)
        for files in self._files.values():
            files.uses, files.origins = uses, origins
        return WindowFollower(uses, self._cache.max_bytes, [sequences[number].line for number in self._files])

    def check_held_out(self) -> None:
        """Raise DataError if the cache is too small even to read on, batch by batch."""
        sizes = [files.table.batches.counts["length_bytes"] for files in self._files.values()]
        self._check_size(BATCHES_BESIDE_WINDOW * max(int(size.max(initial=0)) for size in sizes) + self._kept_bytes())

    def _kept_bytes(self) -> int:
        """Bytes of the small files that stay in the cache as long as the stream is read."""
        own = {files.dataset.fingerprint for files in self._files.values()}
        return sum(
            file.num_bytes
            for file in list_files(self._cache.root)
            if file.dataset in own and file.key is None and not file.is_part
        )

    def _check_size(self, needed: int) -> None:
        if self._cache.max_bytes < needed:
            raise DataError(
                f"data.cache.max_bytes is {self._cache.max_bytes}, this data needs at least {needed} (the shuffle "
                f"window of each source, {BATCHES_BESIDE_WINDOW} record batches beside it, the index): raise "
                f"data.cache.max_bytes, or lower data.shuffle_window_bytes, which is {self._window_bytes}; a window "
                "holds at least one shard, so that smaller ones may have to be prepared"
            )


class WindowFollower:
    """Keeps the current window of one stream in the cache, and fetches the next ones while there is room."""

    def __init__(self, uses: WindowUses, max_bytes: int, lines: Sequence[TokenLine]) -> None:
        self._uses, self._max_bytes, self._lines = uses, max_bytes, lines
        self._prefetcher = Prefetcher()

    def advance(self, position: int) -> None:
        """Say that the stream reads at `position`, before it reads. Raises what the prefetching ran into."""
        self._prefetcher.raise_error()
        if self._uses.advance(position):
            # A mapped file keeps its disk even when it is evicted.
            for line in self._lines:
                line.let_go()
            self._prefetcher.follow(self._uses.plan(self._max_bytes))

    def close(self) -> None:
        """End the prefetching."""
        self._prefetcher.close()
