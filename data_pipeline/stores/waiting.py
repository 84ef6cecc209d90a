"""How long to wait, how often to try again, and a word to the person who watches. Fetches nothing."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Capped exponential back-off with jitter, and the time that one request may take."""

    num_attempts: int = 10
    """Requests before the store is given up: with the delays below some 90 s of a store that fails at once."""

    first_delay_seconds: float = 0.5
    """Delay after the first failure; each later one is twice as long."""

    longest_delay_seconds: float = 30.0
    """Cap of the delay."""

    request_limit_seconds: float = 30.0
    """Longest a request may take, besides its bytes."""

    slowest_bytes_per_second: float = 256 * 1024
    """Speed below which a transfer counts as stalled."""

    notice_after_seconds: float = 10.0
    """Wait after which one line on stderr says what is waited for."""

    seed: int | None = None
    """Seed of the jitter; None draws it from the system, so that ranks do not ask in step."""

    def limit_seconds(self, num_bytes: int) -> float:
        """Return the time that a request for `num_bytes` may take."""
        return self.request_limit_seconds + num_bytes / self.slowest_bytes_per_second

    def delays(self) -> Callable[[int], float]:
        """Return a function from the number of failures so far (1, 2, ...) to the seconds until the next attempt."""
        draw = random.Random(self.seed)  # noqa: S311  (jitter, no secret)

        def delay_seconds(num_failures: int) -> float:
            whole = min(self.longest_delay_seconds, self.first_delay_seconds * 2.0 ** min(num_failures - 1, 30))
            return whole * draw.uniform(0.5, 1.0)

        return delay_seconds


class Wait:
    """One wait for one thing. Says on stderr what it is for, once, when it has become long."""

    def __init__(self, what: str, notice_after_seconds: float) -> None:
        self._what = what
        self._started = time.monotonic()
        self._notice_after_seconds = notice_after_seconds
        self._is_told = False

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self._started

    def tell_if_long(self, why: str = "") -> None:
        """Print the line if it is due."""
        if not self._is_told and self.seconds >= self._notice_after_seconds:
            self._is_told = True
            reason = f" ({why})" if why else ""
            print(f"waiting since {self.seconds:.0f} s for {self._what}{reason}", file=sys.stderr, flush=True)

    def sleep(self, seconds: float, why: str = "") -> None:
        """Sleep, and tell in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self.tell_if_long(why)
