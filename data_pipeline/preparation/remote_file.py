"""Files of a corpus behind an fsspec URL: what a store says of them, and their bytes, asked for again where that helps.

A file is read by ranges, so any part of it opens as fast as its start. Knows no format, and keeps nothing on disk.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec

from data_pipeline.errors import DataError, StorageError
from data_pipeline.stores.request import (
    DENIED_STATUSES,
    GONE_STATUSES,
    PASSING_STATUSES,
    ShortAnswerError,
    describe_error,
    run_within,
    status_of,
    store_options,
)
from data_pipeline.stores.waiting import RetryPolicy, Wait

# One request: large enough to hide its way, small enough for a piece's worker to keep.
REQUEST_BYTES = 8 * 1024 * 1024
# A file kept in memory because its server sends only all of it.
_MOST_WHOLE_BYTES = 256 * 1024 * 1024
_MARKS = ("etag", "content-md5", "md5hash", "md5", "checksum", "generation", "version_id")
_MOMENTS = ("mtime", "last-modified", "last_modified", "lastmodified", "updated", "created")
# A folder of a million files takes a thousand requests.
_LISTING_SECONDS = 600.0
_STEADY = RetryPolicy()


@dataclass(frozen=True)
class RemoteFacts:
    """What a store says of one file."""

    num_bytes: int
    changed: str
    """Nanoseconds since 1970 (0: unknown), and the store's own mark of the version if it has one."""


def is_url(path: str) -> bool:
    """Whether an input is behind a URL, and not a path here."""
    return "://" in path


def shown_url(url: str) -> str:
    """Return the URL for messages: a query may be a signature that opens the file."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def look_at_url(url: str, policy: RetryPolicy = _STEADY) -> RemoteFacts:
    """Ask the store for a file's size and version. Raises DataError if it is not there."""
    filesystem, path = _connect(url)

    def ask() -> dict[str, Any]:
        filesystem.invalidate_cache()
        return dict(filesystem.info(path))

    return _facts(_persist(shown_url(url), ask, policy, policy.limit_seconds(0)), url)


def list_folder(url: str, policy: RetryPolicy = _STEADY) -> dict[str, str] | None:
    """Return the files below a URL (name in it -> URL of its own); None if the URL is one of a file."""
    filesystem, path = _connect(url)

    def ask() -> list[str] | None:
        # The web knows no folders: a page of links is one if its address ends like one.
        is_web = url.startswith(("http://", "https://"))
        is_folder = url.endswith("/") if is_web else filesystem.info(path)["type"] == "directory"
        return list(filesystem.find(path)) if is_folder else None

    found: list[str] | None = _persist(shown_url(url), ask, policy, _LISTING_SECONDS)
    if found is None:
        return None
    root = path.rstrip("/") + "/"
    names = [name.removeprefix(root) for name in found if name.startswith(root)]
    return {name: f"{url.rstrip('/')}/{name}" for name in names}


def open_url(url: str, buffer_bytes: int = REQUEST_BYTES, policy: RetryPolicy = _STEADY) -> BinaryIO:
    """Open a file for reading anywhere in it. Raises DataError or StorageError, now or at a read."""
    return cast(BinaryIO, io.BufferedReader(RemoteFile(url, policy), buffer_bytes))


class RemoteFile(io.RawIOBase):
    """The bytes of a file behind a URL."""

    def __init__(self, url: str, policy: RetryPolicy = _STEADY) -> None:
        self.url = url
        self.policy = policy
        self._position = 0
        self._whole: bytes | None = None
        self._filesystem, self._path = _connect(self.url)
        self._num_bytes = look_at_url(self.url, self.policy).num_bytes

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; nothing is asked for yet."""
        self._position = offset + (0, self._position, self._num_bytes)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, or less of it at the end of the file."""
        stop = min(self._position + len(buffer), self._num_bytes)
        if stop <= self._position:
            return 0
        content = self._range(self._position, stop)
        buffer[: len(content)] = content
        self._position = stop
        return len(content)

    def _range(self, start: int, stop: int) -> bytes:
        if self._whole is not None:
            return self._whole[start:stop]

        def ask() -> bytes:
            content = bytes(self._filesystem.cat_file(self._path, start=start, end=stop))
            if len(content) == self._num_bytes <= _MOST_WHOLE_BYTES:
                # Such a server knows no ranges; its next answer would be all of it again.
                self._whole = content
                return content[start:stop]
            if len(content) != stop - start:
                raise ShortAnswerError(f"{len(content)} of {stop - start} bytes arrived")
            return content

        what = f"{shown_url(self.url)} bytes {start}..{stop}"
        return bytes(_persist(what, ask, self.policy, self.policy.limit_seconds(stop - start)))


def _connect(url: str) -> tuple[Any, str]:
    parts = urlsplit(url)
    if parts.password is not None:
        raise DataError(
            f"{parts.scheme}://...@{parts.hostname}{parts.path}: holds a password: leave it out, and let the store's "
            "own settings (environment, credentials file, role) sign in"
        )
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **store_options(url))
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{shown_url(url)}: {error}: install the fsspec package of this store, or mend the URL"
        ) from None
    return filesystem, str(path)


def _facts(info: dict[str, Any], url: str) -> RemoteFacts:
    if info.get("size") is None:
        raise DataError(f"{shown_url(url)}: the store does not tell its size: copy the file here first")
    lowered = {str(name).lower(): value for name, value in info.items()}
    moment = next((lowered[name] for name in _MOMENTS if lowered.get(name)), None)
    mark = next((str(lowered[name]) for name in _MARKS if lowered.get(name)), "")
    return RemoteFacts(int(info["size"]), f"{_nanoseconds(moment)} {mark}".strip())


def _nanoseconds(moment: Any) -> int:
    if isinstance(moment, str):
        try:
            moment = parsedate_to_datetime(moment) if "," in moment else datetime.fromisoformat(moment)
        except ValueError:
            return 0
    if isinstance(moment, datetime):
        moment = moment.timestamp()
    return int(moment * 1e9) if isinstance(moment, int | float) else 0


def _persist(what: str, ask: Callable[[], Any], policy: RetryPolicy, limit_seconds: float) -> Any:
    wait = Wait(what, policy.notice_after_seconds)
    delay_seconds = policy.delays()
    cause = ""
    for number in range(1, policy.num_attempts + 1):
        try:
            return run_within(limit_seconds, wait, ask)
        except Exception as error:  # noqa: BLE001  (each store has errors of its own; none is lost)
            _raise_if_lasting(what, error)
            cause = describe_error(_root_of(error))
        if number < policy.num_attempts:
            wait.sleep(delay_seconds(number), cause)
    raise StorageError(
        f"{what}: not to be had in {policy.num_attempts} attempts within {wait.seconds:.0f} s; the last one: {cause}: "
        "see whether the store answers; the same command goes on where this one ended"
    )


def _root_of(error: Exception) -> BaseException:
    """See through fsspec, whose web store calls every failure a missing file."""
    return error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error


def _raise_if_lasting(what: str, error: Exception) -> None:
    root = _root_of(error)
    status = status_of(root)
    if isinstance(root, FileNotFoundError) or status in GONE_STATUSES:
        raise DataError(f"{what}: not in the store: check the input's URL") from None
    if isinstance(root, PermissionError) or status in DENIED_STATUSES:
        raise DataError(
            f"{what}: the store denies access ({describe_error(root)}): give this machine the right to read it, by the "
            "store's own settings (environment, credentials file, role)"
        ) from None
    if isinstance(root, ImportError | NotImplementedError) or (
        status is not None and 400 <= status < 500 and status not in PASSING_STATUSES
    ):
        raise DataError(f"{what}: the store refuses ({describe_error(root)}): check the input's URL") from None
