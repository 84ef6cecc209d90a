"""A dataset in a store: its small files copied into the cache, where they make a directory like a local dataset's.

Shards are `remote_shards.py`'s.
"""

import json
import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from data_pipeline.durable_file import checksum_bytes, write_durably
from data_pipeline.errors import DataError, StorageError
from data_pipeline.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    PACKS_NAME,
    SHARDS_NAME,
    SPLITS,
    TOKENIZER_NAME,
    Manifest,
    Split,
    read_manifest,
)
from data_pipeline.packing.pack_records import index_path, read_record
from data_pipeline.sealed_json import unseal
from data_pipeline.stores.cache_directory import CacheDirectory, Wanted
from data_pipeline.stores.cache_layout import ORIGIN_NAME, CachedFile
from data_pipeline.stores.eviction import NOW, OnceThrough
from data_pipeline.stores.location import check_url
from data_pipeline.stores.remote_store import RemoteStore
from data_pipeline.stores.waiting import RetryPolicy

_SEAL_KEY = "manifest_checksum"
_PACKS_SEAL_KEY = "packs_checksum"
_CHECKSUM = re.compile(r"^[0-9a-f]{32}$")


class RemoteDataset:
    """One dataset behind a URL, and its place in the cache."""

    def __init__(self, url: str, cache: CacheDirectory, policy: RetryPolicy) -> None:
        """Fetch and check what a stream needs to open. Raises DataError or StorageError that names the URL."""
        self.url = check_url(url)
        self.store = RemoteStore(self.url, policy)
        self.cache = cache
        sealed = self.store.read_file(MANIFEST_NAME, lambda content: _find_seal_fault(content, _SEAL_KEY))
        values = json.loads(sealed)
        self.fingerprint, checksums = self._read_needed(values)
        self.directory = cache.root / self.fingerprint
        """Looks like a local dataset without its shards."""
        self._uses = OnceThrough([self.fingerprint], [])
        self.origins = Origins({self.fingerprint: self}, policy)
        self._write(MANIFEST_NAME, sealed)
        self._write(ORIGIN_NAME, json.dumps({"url": self.url}).encode())
        for name, checksum in checksums.items():
            self.fetch_file(name, partial(_compare, needed=checksum))
        self.manifest: Manifest = read_manifest(self.directory)

    def fetch_file(self, name: str, find_fault: Callable[[bytes], str | None]) -> Path:
        """Have a small file of the dataset in the cache; `find_fault` says what is wrong with a content, or None."""
        path = self.directory / name
        if path.is_file() and find_fault(path.read_bytes()):
            path.unlink(missing_ok=True)
        wanted = Wanted(path, None, f"{self.url}/{name}", NOW, is_index=True)
        self.cache.obtain(wanted, lambda: self.store.read_file(name, find_fault), self._uses, self.origins)
        return path

    def fetch_packs(self, split: Split, num_tokens: int) -> None:
        """Have the pack index of `num_tokens` in the cache. Raises DataError, with what to do, if there is none."""
        path = index_path(self.directory, split, num_tokens)
        names = [f"{PACKS_NAME}/{path.with_suffix('.json').name}", f"{PACKS_NAME}/{path.name}"]
        try:
            self.fetch_file(names[0], lambda content: _find_seal_fault(content, _PACKS_SEAL_KEY))
            record = read_record(self.directory, self.manifest, split, num_tokens)
            self.fetch_file(names[1], lambda content: _compare(content, record.checksum))
        except DataError as error:
            raise DataError(
                f"{error}\n  run `llama-dist data pack DIRECTORY --sequence-length {num_tokens}` on the prepared "
                f"dataset and put its packs/ beside {self.url}/{MANIFEST_NAME}"
            ) from None

    def _write(self, name: str, content: bytes) -> None:
        path = self.directory / name
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                write_durably(path, content)
                path.chmod(0o600)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None

    def _read_needed(self, values: dict[str, object]) -> tuple[str, dict[str, str]]:
        """Return the fingerprint and the checksums of the small files; the rest is checked by `read_manifest`."""
        index, tokenizer = values.get("shard_index"), values.get("tokenizer")
        found = (
            values.get("fingerprint"),
            index.get("checksum") if isinstance(index, dict) else None,
            tokenizer.get("checksum") if isinstance(tokenizer, dict) else None,
        )
        texts = [text for text in found if isinstance(text, str) and _CHECKSUM.match(text)]
        if len(texts) < len(found):
            raise DataError(
                f"{self.url}/{MANIFEST_NAME}: version {values.get('version')!r} of the format, without what this "
                "program reads: prepare the data again"
            )
        return texts[0], {INDEX_NAME: texts[1], TOKENIZER_NAME: texts[2]}


class Origins:
    """Asks the stores whether what is in the cache can be fetched again: for these datasets, and for forgotten ones."""

    def __init__(self, known: dict[str, RemoteDataset], policy: RetryPolicy) -> None:
        self._known, self._policy = known, policy

    def join(self, other: "Origins") -> "Origins":
        """Return one that knows the datasets of both."""
        return Origins(self._known | other._known, self._policy)

    def confirm(self, files: Collection[CachedFile]) -> list[CachedFile]:
        """Return those of `files` whose remote copy has the expected size. Asks once a remote file."""
        answers: dict[tuple[str, str], bool] = {}
        confirmed = []
        for file in files:
            shard = file.key.shard if file.key else ""
            question = (file.dataset, f"{SHARDS_NAME}/{shard}.arrow" if shard else file.path.name)
            if question not in answers:
                answers[question] = self._has(file, question[1])
            if answers[question]:
                confirmed.append(file)
        return confirmed

    def _has(self, file: CachedFile, name: str) -> bool:
        found = self._origin(file)
        if found is None:
            return False
        store, manifest = found
        if file.key is None:
            return store.has_file(file.path.relative_to(_directory_of(file)).as_posix(), file.num_bytes)
        for split in SPLITS:
            # By columns: a record for each of thousands of shards would take half a second.
            columns = manifest.table(split).columns
            names = columns.files.to_pylist()
            if name in names:
                return store.has_file(name, int(columns.counts["num_bytes"][names.index(name)]))
        return False

    def _origin(self, file: CachedFile) -> tuple[RemoteStore, Manifest] | None:
        """Return the store of a dataset, and its manifest; None if the cache does not tell."""
        own = self._known.get(file.dataset)
        if own is not None:
            return own.store, own.manifest
        directory = _directory_of(file)
        try:
            url = json.loads((directory / ORIGIN_NAME).read_bytes())["url"]
            return RemoteStore(check_url(url), self._policy), read_manifest(directory)
        except (DataError, OSError, ValueError, KeyError, TypeError):
            return None


def _directory_of(file: CachedFile) -> Path:
    return next(parent for parent in file.path.parents if parent.name == file.dataset)


def _compare(content: bytes, needed: str) -> str | None:
    seen = checksum_bytes(content)
    return None if seen == needed else f"checksum {seen}, the manifest says {needed}"


def _find_seal_fault(content: bytes, seal_key: str) -> str | None:
    try:
        unseal(Path(MANIFEST_NAME), content, seal_key, remedy="put the prepared one back")
    except DataError as error:
        return str(error)
    return None
