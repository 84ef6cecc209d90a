"""Progress of a long verb on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

# A log that is read afterwards wants few lines; a person who waits wants one now and then.
_LINE_INTERVAL_SECONDS = 10.0


class Progress(Protocol):
    """Told of the work done so far."""

    def update(self, num_source_bytes: int, num_text_bytes: int, num_tokens: int) -> None:
        """Show the totals so far."""
        ...


@contextmanager
def show_progress(label: str, total_bytes: int) -> Iterator[Progress]:
    """Show the progress of reading `total_bytes` until the block ends."""
    if not sys.stderr.isatty():
        yield _LineProgress(label, total_bytes)
        return
    from rich.console import Console  # noqa: PLC0415  (only a terminal needs rich)
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as RichProgress  # noqa: PLC0415

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %")]
    with RichProgress(
        *columns, TextColumn("{task.fields[rates]}"), TimeRemainingColumn(), console=Console(stderr=True)
    ) as bar:
        yield _BarProgress(bar, label, total_bytes)


def describe_rates(num_text_bytes: int, num_tokens: int, seconds: float) -> str:
    """Return text and tokens per second, and the tokens so far, where there are any."""
    rates = f"{num_text_bytes / 1e6 / seconds:.1f} MB/s"
    return f"{rates}  {num_tokens / seconds:,.0f} tokens/s  {num_tokens:,} tokens" if num_tokens else rates


class _BarProgress:
    def __init__(self, bar: Any, label: str, total_bytes: int) -> None:
        self._bar = bar
        self._task = bar.add_task(label, total=total_bytes, rates="")
        self._start_seconds = time.monotonic()

    def update(self, num_source_bytes: int, num_text_bytes: int, num_tokens: int) -> None:
        seconds = max(1e-3, time.monotonic() - self._start_seconds)
        rates = describe_rates(num_text_bytes, num_tokens, seconds)
        self._bar.update(self._task, completed=num_source_bytes, rates=rates)


class _LineProgress:
    def __init__(self, label: str, total_bytes: int) -> None:
        self._label = label
        self._total_bytes = total_bytes
        self._start_seconds = self._last_seconds = time.monotonic()

    def update(self, num_source_bytes: int, num_text_bytes: int, num_tokens: int) -> None:
        now_seconds = time.monotonic()
        if now_seconds - self._last_seconds < _LINE_INTERVAL_SECONDS:
            return
        self._last_seconds = now_seconds
        rates = describe_rates(num_text_bytes, num_tokens, now_seconds - self._start_seconds)
        percent = 100 * num_source_bytes / max(1, self._total_bytes)
        print(f"{self._label}: {percent:.0f} %  {rates}", file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """Print one line for a person on stderr, where it cannot mix with a verb's answer."""
    print(text, file=sys.stderr, flush=True)
