"""How far a rehearsed launch is, from the files of its run; and waits for it to come further. Changes nothing."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

from launcher.attempt_files import attempt_numbers
from launcher.records import Heartbeat, process_is_alive, read_heartbeats, read_json, read_supervisor
from launcher.save_now import read_alerts
from launcher.status import last_metrics
from llama_dist.checkpoint.manifest import list_steps
from llama_dist.config import RunDirectory

_POLL_SECONDS = 0.05


class StuckError(Exception):
    """The run did not come to where it had to. The message says why, in one line."""


class Progress:
    """One launch of a run."""

    def __init__(self, run: RunDirectory, launch: "subprocess.Popen[bytes]") -> None:
        self.run, self._launch = run, launch

    @property
    def has_ended(self) -> bool:
        """Whether the launch itself is over."""
        return self._launch.poll() is not None

    @property
    def attempt(self) -> int:
        """Number of the newest attempt; 0 before the first."""
        return max(attempt_numbers(self.run), default=0)

    @property
    def position(self) -> tuple[int, int]:
        """(attempt, step) of the step that was recorded last; zeros before the first."""
        metrics = last_metrics(self.run.spool) or {}
        attempt, step = metrics.get("attempt"), metrics.get("step")
        return (attempt, step) if isinstance(attempt, int) and isinstance(step, int) else (0, 0)

    @property
    def newest_checkpoint(self) -> int:
        """Step of the newest checkpoint; 0 before the first."""
        return max(list_steps(self.run.checkpoints), default=0)

    def end_of(self, attempt: int) -> dict[str, Any] | None:
        """What the supervisor wrote down of the attempt's end; None while it runs."""
        return read_json(self.run.attempt_end(attempt))

    def hang_of(self, attempt: int) -> dict[str, Any] | None:
        """What the supervisor wrote down of a hang."""
        return read_json(self.run.attempt(attempt) / "hang.json")

    def alerts_of(self, attempt: int) -> list[str]:
        """Lines that tell of saves that failed."""
        return read_alerts(self.run, attempt)

    def ranks_by_host(self, attempt: int) -> dict[str, list[int]]:
        """Ranks of each host, in their order; empty where the attempt has not begun."""
        ranks: dict[str, list[int]] = {}
        for place in (read_json(self.run.attempt(attempt) / "plan.json") or {}).get("ranks", []):
            ranks.setdefault(str(place["host"]), []).append(int(place["rank"]))
        return ranks

    def live_rank(self, attempt: int, rank: int) -> Heartbeat:
        """Return the recorded process of a rank. Raises StuckError where it does not run."""
        beat = read_heartbeats(self.run.heartbeats).get(rank)
        if beat is None or beat.attempt != attempt or not process_is_alive(beat.pid, beat.create_time):
            raise StuckError(f"rank {rank} of attempt {attempt} was not running any more")
        return beat

    def wait(self, is_met: Callable[[], bool], limit_seconds: float, what: str) -> None:
        """Return once `is_met`. Raises StuckError where the launch ends before, or it takes too long."""
        deadline = time.monotonic() + limit_seconds
        while not is_met():
            if self.has_ended and not is_met():
                raise StuckError(f"the run ended before {what}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise StuckError(f"no {what} within {limit_seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _last_words(self) -> str:
        record = read_supervisor(self.run.supervisor)
        lines = record.reason.strip().splitlines() if record else []
        return lines[0] if lines else f"exit code {self._launch.returncode}"
