"""Reads files, or ranges of bytes of them, from any fsspec URL: within a time limit, again where that can help.

Knows no dataset and keeps nothing; `cache_directory.py` does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import fsspec
from fsspec.asyn import AsyncFileSystem

from data_pipeline.durable_file import checksum_bytes
from data_pipeline.errors import DataError, StorageError
from data_pipeline.stores.request import (
    DENIED_STATUSES,
    GONE_STATUSES,
    PASSING_STATUSES,
    DamagedAnswerError,
    ShortAnswerError,
    describe_error,
    run_within,
    status_of,
    store_options,
)
from data_pipeline.stores.waiting import RetryPolicy, Wait

# A damaged answer may be the way's fault; three of them are the file's.
_MOST_DAMAGED_ANSWERS = 3


@dataclass(frozen=True)
class ByteRange:
    """The part of a file that is asked for, and what it must turn out to be."""

    file: str
    """Path inside the store's directory."""

    start_bytes: int
    num_bytes: int
    file_bytes: int
    """Size of the whole file, to tell a store that ignores ranges."""

    checksum: str
    """xxh3_128 of the range."""

    def __str__(self) -> str:
        return f"bytes {self.start_bytes}..{self.start_bytes + self.num_bytes}"


class RemoteStore:
    """The directory of one dataset in a store."""

    def __init__(self, url: str, policy: RetryPolicy | None = None) -> None:
        """Raises DataError if no installed package knows the URL's protocol."""
        self.url = url
        self.policy = policy or RetryPolicy()
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(url, **store_options(url))
        except (ImportError, ValueError) as error:
            raise DataError(f"{url}: {error}: install the fsspec package of this store, or mend the URL") from None

    def read_range(self, wanted: ByteRange) -> bytes:
        """Fetch and verify one range. Raises DataError or StorageError that names the URL and what was seen."""

        def check(content: bytes) -> None:
            if len(content) != wanted.num_bytes:
                if len(content) == wanted.file_bytes > wanted.num_bytes:
                    raise DataError(
                        f"{self._name(wanted.file)}: asked for {wanted}, the store sent all {len(content)} bytes: it "
                        "ignores ranges of bytes: serve the dataset by a server that knows them, or copy it here"
                    )
                raise ShortAnswerError(f"{len(content)} of {wanted.num_bytes} bytes arrived")
            seen = checksum_bytes(content)
            if seen != wanted.checksum:
                raise DamagedAnswerError(f"checksum {seen}, the manifest says {wanted.checksum}")

        end = wanted.start_bytes + wanted.num_bytes
        return self._persist(
            f"{self._name(wanted.file)} {wanted}",
            lambda limit: self._cat(wanted.file, limit, start=wanted.start_bytes, end=end),
            check,
            self.policy.limit_seconds(wanted.num_bytes),
        )

    def read_file(self, file: str, find_fault: Callable[[bytes], str | None], *, expected_bytes: int = 0) -> bytes:
        """Fetch a whole, small file. `find_fault` says what is wrong with the content, or None."""

        def check(content: bytes) -> None:
            fault = find_fault(content)
            if fault:
                raise DamagedAnswerError(fault)

        limit_seconds = self.policy.limit_seconds(expected_bytes)
        return self._persist(self._name(file), lambda limit: self._cat(file, limit), check, limit_seconds)

    def has_file(self, file: str, num_bytes: int) -> bool:
        """Ask once whether the store has the file at that size; no answer is a no."""
        wait = Wait(f"the size of {self._name(file)}", self.policy.notice_after_seconds)
        limit = self.policy.limit_seconds(0)
        try:
            info = run_within(limit, wait, lambda: self._filesystem.info(f"{self._root}/{file}", **self._timed(limit)))
        except Exception:  # noqa: BLE001  (each store has errors of its own, and all of them mean: not confirmed)
            return False
        return bool(info.get("size") == num_bytes)

    def _name(self, file: str) -> str:
        return f"{self.url}/{file}"

    def _cat(self, file: str, limit_seconds: float, **span: int) -> bytes:
        return bytes(self._filesystem.cat_file(f"{self._root}/{file}", **span, **self._timed(limit_seconds)))

    def _timed(self, limit_seconds: float) -> dict[str, float]:
        """Let the store end what nobody waits for any more. Only asynchronous stores can."""
        return {"timeout": limit_seconds} if isinstance(self._filesystem, AsyncFileSystem) else {}

    def _persist(
        self,
        what: str,
        attempt: Callable[[float], bytes],
        check: Callable[[bytes], None],
        limit_seconds: float,
    ) -> bytes:
        wait = Wait(what, self.policy.notice_after_seconds)
        delay_seconds = self.policy.delays()
        num_damaged = 0
        cause = ""
        for number in range(1, self.policy.num_attempts + 1):
            try:
                content: bytes = run_within(limit_seconds, wait, lambda: attempt(limit_seconds))
                check(content)
                return content
            except DataError:
                raise
            except Exception as error:  # noqa: BLE001  (each store has errors of its own; none is lost)
                _raise_if_lasting(what, error)
                cause = describe_error(error)
                num_damaged += isinstance(error, DamagedAnswerError)
                if num_damaged == _MOST_DAMAGED_ANSWERS:
                    raise DataError(
                        f"{what}: {cause}, {num_damaged} times: the stored file is damaged: put the prepared one back"
                    ) from None
            if number < self.policy.num_attempts:
                wait.sleep(delay_seconds(number), cause)
        raise StorageError(
            f"{what}: not to be had in {self.policy.num_attempts} attempts within {wait.seconds:.0f} s; the last one: "
            f"{cause}: see whether the store answers, start again"
        )


def _raise_if_lasting(what: str, error: Exception) -> None:
    """Raise DataError for what no later attempt cures."""
    status = status_of(error)
    if isinstance(error, FileNotFoundError) or status in GONE_STATUSES:
        raise DataError(f"{what}: not in the store: mend data.sources.N.path, or put the dataset there") from None
    if isinstance(error, PermissionError) or status in DENIED_STATUSES:
        raise DataError(
            f"{what}: the store denies access ({describe_error(error)}): give this node the right to read it, by the "
            "store's own settings (environment, credentials file, role)"
        ) from None
    if status is not None and 400 <= status < 500 and status not in PASSING_STATUSES:
        raise DataError(
            f"{what}: the store refuses ({describe_error(error)}): its file is another one than the manifest says, or "
            "it cannot be read this way: put the prepared one back"
        ) from None
