"""One request to a store: within a time limit, and what its failure means. Tries nothing again."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import fsspec

from data_pipeline.stores.waiting import Wait

# Answers of HTTP below 500 that a later attempt may cure: request timeout, too early, too many requests.
PASSING_STATUSES = (408, 425, 429)
GONE_STATUSES = (404, 410)
DENIED_STATUSES = (401, 403)


class ShortAnswerError(Exception):
    """Fewer bytes than asked for, or more."""


class DamagedAnswerError(Exception):
    """The right number of bytes, but others."""


def run_within(limit_seconds: float, wait: Wait, action: Callable[[], Any]) -> Any:
    """Run `action` in a thread and give up on it after the limit: not every store has a time limit of its own."""
    answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((action(), None))
        except Exception as error:  # noqa: BLE001  (handed to the thread that waits)
            answers.put((None, error))

    # A daemon, so that a store that never answers cannot keep the process alive.
    threading.Thread(target=work, name="store request", daemon=True).start()
    started = wait.seconds
    while (left := limit_seconds - (wait.seconds - started)) > 0:
        try:
            answer, error = answers.get(timeout=min(left, 0.5))
        except queue.Empty:
            wait.tell_if_long()
            continue
        if error is not None:
            raise error
        return answer
    raise TimeoutError(f"no whole answer within {limit_seconds:.3g} s")


def store_options(url: str) -> dict[str, Any]:
    """Add to a web store's settings that nothing is compressed on the way: a range would be of the compressed file."""
    protocol = url.partition("://")[0]
    if protocol not in ("http", "https"):
        return {}
    return {"headers": fsspec.config.conf.get(protocol, {}).get("headers", {}) | {"Accept-Encoding": "identity"}}


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that the libraries of the stores keep under one of two names."""
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return None


def describe_error(error: BaseException) -> str:
    """Return the error's kind and its words, on one line."""
    text = " ".join(str(error).split())[:300]
    is_own = isinstance(error, ShortAnswerError | DamagedAnswerError)
    return text if is_own and text else f"{type(error).__name__} {text}".strip()
