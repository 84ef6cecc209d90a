"""Progress of a long verb on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

# A log that is read afterwards wants few lines; a person who waits wants one now and then.
_LINE_INTERVAL_SECONDS = 10.0


class Progress(Protocol):
    """Told of the work done since the block began."""

    def update(self, num_source_bytes: int, num_text_bytes: int, num_tokens: int) -> None:
        """Show the totals since the block began."""
        ...


@contextmanager
def show_progress(label: str, total_bytes: int, done_bytes: int = 0) -> Iterator[Progress]:
    """Show the progress of reading `total_bytes` until the block ends; `done_bytes` of them were read before."""
    if not sys.stderr.isatty():
        yield _LineProgress(label, total_bytes, done_bytes)
        return
    from rich.console import Console  # noqa: PLC0415  (only a terminal needs rich)
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as RichProgress  # noqa: PLC0415

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %")]
    with RichProgress(*columns, TextColumn("{task.fields[rates]}"), console=Console(stderr=True)) as bar:
        yield _BarProgress(bar, label, total_bytes, done_bytes)


def describe_rates(num_text_bytes: int, num_tokens: int, seconds: float) -> str:
    """Return text and tokens per second, and the tokens so far, where there are any."""
    rates = f"{num_text_bytes / 1e6 / seconds:.1f} MB/s"
    return f"{rates}  {num_tokens / seconds:,.0f} tokens/s  {num_tokens:,} tokens" if num_tokens else rates


def describe_time_left(left_bytes: int, num_source_bytes: int, seconds: float) -> str:
    """Return the time that `left_bytes` will take at the pace so far, as `1:02:03 left`; nothing before the start."""
    if not num_source_bytes:
        return ""
    minutes, left_seconds = divmod(round(max(0, left_bytes) / num_source_bytes * seconds), 60)
    return f"  {minutes // 60}:{minutes % 60:02d}:{left_seconds:02d} left"


class _BarProgress:
    def __init__(self, bar: Any, label: str, total_bytes: int, done_bytes: int) -> None:
        self._bar = bar
        self._total_bytes, self._done_bytes = total_bytes, done_bytes
        self._task = bar.add_task(label, total=total_bytes, completed=done_bytes, rates="")
        self._start_seconds = time.monotonic()

    def update(self, num_source_bytes: int, num_text_bytes: int, num_tokens: int) -> None:
        seconds = max(1e-3, time.monotonic() - self._start_seconds)
        completed = self._done_bytes + num_source_bytes
        rates = describe_rates(num_text_bytes, num_tokens, seconds)
        rates += describe_time_left(self._total_bytes - completed, num_source_bytes, seconds)
        self._bar.update(self._task, completed=completed, rates=rates)


class _LineProgress:
    def __init__(self, label: str, total_bytes: int, done_bytes: int) -> None:
        self._label = label
        self._total_bytes, self._done_bytes = total_bytes, done_bytes
        self._start_seconds = self._last_seconds = time.monotonic()

    def update(self, num_source_bytes: int, num_text_bytes: int, num_tokens: int) -> None:
        now_seconds = time.monotonic()
        if now_seconds - self._last_seconds < _LINE_INTERVAL_SECONDS:
            return
        self._last_seconds = now_seconds
        seconds = now_seconds - self._start_seconds
        completed = self._done_bytes + num_source_bytes
        rates = describe_rates(num_text_bytes, num_tokens, seconds)
        rates += describe_time_left(self._total_bytes - completed, num_source_bytes, seconds)
        percent = 100 * completed / max(1, self._total_bytes)
        print(f"{self._label}: {percent:.0f} %  {rates}", file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """Print one line for a person on stderr, where it cannot mix with a verb's answer."""
    print(text, file=sys.stderr, flush=True)
