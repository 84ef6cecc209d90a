"""Reads a dataset by the library `datasets`, streamed: `hub://owner/name?config=C&split=S`, `hub:///folder?split=S`.

Its files are found, opened and decoded by that library; no code of a dataset is ever run. Nothing is kept on disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import fsspec

from data_pipeline.config import ReportedError
from data_pipeline.errors import DataError, StorageError

if TYPE_CHECKING:
    from data_pipeline.preparation.inputs import Piece

_PREFIX = "hub://"
_EXAMPLE = "hub://owner/name?config=C&split=train"


@dataclass(frozen=True)
class HubDataset:
    """A split of a dataset, by name."""

    name: str
    """`owner/name` on the hub, or an absolute path of a folder here."""

    config: str | None
    split: str
    revision: str | None


@dataclass(frozen=True)
class HubFacts:
    """What is known of a split before it is read."""

    num_shards: int
    num_bytes: int
    changed: str
    """The library's marks of its files: times of change, or the commit."""


def is_hub(path: str) -> bool:
    """Whether an input is read by the library `datasets`."""
    return path.startswith(_PREFIX)


def parse_hub(url: str) -> HubDataset:
    """Take a URL apart. Raises DataError if it names no dataset, or holds other settings."""
    parts = urlsplit(url)
    name = (f"{parts.netloc}{parts.path}" if parts.netloc else parts.path).rstrip("/")
    values = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(values.keys() - {"config", "split", "revision"})
    if not name or unknown or parts.fragment:
        what = f"unknown settings {', '.join(unknown)}" if unknown else "names no dataset"
        raise DataError(f"{url}: {what}: write {_EXAMPLE} (or revision=R), or hub:///folder?split=train")
    return HubDataset(name, values.get("config"), values.get("split", "train"), values.get("revision"))


def look_at_hub(url: str) -> HubFacts:
    """Find the split's files. Raises DataError if there is none, StorageError if the hub does not answer."""
    wanted = parse_hub(url)
    with _told(url):
        builder = _builder(wanted)
        found = dict(builder.config.data_files or {})
        files = next((list(names) for split, names in found.items() if str(split) == wanted.split), [])
        if not files:
            raise DataError(f"{url}: no split `{wanted.split}` (splits: {', '.join(map(str, found)) or 'none'})")
        marks = sorted(str(mark) for names in found.values() for mark in getattr(names, "origin_metadata", ()))
        num_bytes = sum(_num_bytes(name) for name in files)
        num_shards = builder.as_streaming_dataset(split=wanted.split).num_shards
    # First the time of change, as of any input: the library tells it as a text without a fixed form.
    return HubFacts(int(num_shards), num_bytes, f"0 {sha256(repr((files, marks)).encode()).hexdigest()}")


def read_shards(piece: "Piece", field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of shards `piece.start` to `piece.stop`, each row with no more than column `field`."""
    wanted = parse_hub(piece.path)
    with _told(piece.path):
        rows = _builder(wanted).as_streaming_dataset(split=wanted.split)
        names = rows.column_names
        if names is not None and field not in names:
            raise DataError(
                f"{piece.place}: no column `{field}` (columns: {', '.join(names)}): name it with --text-field"
            )
        num_shards = rows.num_shards
        for index in range(piece.start, num_shards if piece.stop is None else piece.stop):
            shard = rows.shard(num_shards=num_shards, index=index)
            for number, row in enumerate(shard.select_columns([field]) if names is not None else shard):
                yield f"{piece.place}: shard {index} of {num_shards}, row {number}", row


def _builder(wanted: HubDataset) -> Any:
    import datasets  # noqa: PLC0415  (takes seconds to import, and only this kind needs it)

    # What load_dataset(..., streaming=True) does, with the list of files in between.
    return datasets.load_dataset_builder(wanted.name, wanted.config, revision=wanted.revision)


def _num_bytes(name: str) -> int:
    filesystem, path = fsspec.core.url_to_fs(name)
    size = filesystem.info(path).get("size")
    # Of unknown size, but not empty: only the progress is the worse for it.
    return 1 if size is None else int(size)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Say in one line what the library says in its many ways."""
    try:
        yield
    except ReportedError:
        raise
    except Exception as error:  # noqa: BLE001  (each format of the library has errors of its own; none is lost)
        causes = _chain(error)
        words = " ".join(f"{type(error).__name__}: {causes[-1]}".split())[:400]
        status = next((cause.response.status_code for cause in causes if hasattr(cause, "response")), None)
        is_away = any(isinstance(cause, ConnectionError | TimeoutError) for cause in causes)
        if is_away or (isinstance(status, int) and status >= 500):
            raise StorageError(
                f"{url}: the hub does not answer ({words}): see the network and HF_HUB_OFFLINE, start again; or fetch "
                "the files and give hub:///folder"
            ) from None
        raise DataError(
            f"{url}: `datasets` cannot read it ({words}): check name, config, split and the access token (HF_TOKEN)"
        ) from None


def _chain(error: BaseException) -> list[Any]:
    """Return the error and what caused it, outermost first."""
    causes: list[Any] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__
    return causes
