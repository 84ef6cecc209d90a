"""The `checkpoint now` verb: asks a live run for a checkpoint, and waits until there is one."""

import contextlib
import os
import time
from pathlib import Path

from launcher.agent_log import read_tail
from launcher.errors import RunDirectoryError
from launcher.plan import log_directory
from launcher.queued_state import QUEUED
from launcher.records import TERMINAL_STATES
from launcher.status import RunStatus, read_status
from llama_dist.checkpoint.manifest import step_directory
from llama_dist.config import ConfigError, RunDirectory
from llama_dist.config.run_life import read_saved

_POLL_SECONDS = 0.1
_LOG_TAIL_BYTES = 1 << 16


def save_now(run: RunDirectory, timeout_seconds: float) -> Path:
    """Return the checkpoint that holds at least what the run had done when it was asked.

    Raises ConfigError where the run is not live, RunDirectoryError where it saved none in time.
    """
    asked = _live_status(run)
    wanted_step = max((rank.step for rank in asked.ranks), default=0)
    alerts_before = _alerts(run, asked.attempt)
    _write_request(run)
    try:
        return _wait(run, wanted_step, alerts_before, time.monotonic() + timeout_seconds)
    finally:
        with contextlib.suppress(OSError):  # not taken up: nobody waits for it any more
            run.save_request.unlink()


def _live_status(run: RunDirectory) -> RunStatus:
    status = read_status(run)
    if status.state in (*TERMINAL_STATES, "lost", "new", QUEUED):
        newest = status.newest_checkpoint_step
        kept = "no checkpoint yet" if newest is None else f"newest checkpoint: step {newest}"
        raise ConfigError(f"run `{run.name}` is not live ({status.state}), so it cannot save; {kept}")
    return status


def _write_request(run: RunDirectory) -> None:
    try:
        os.close(os.open(run.save_request, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise RunDirectoryError(
            f"{run.save_request}: cannot be written: {error.strerror}: the run cannot be asked"
        ) from None


def _wait(run: RunDirectory, wanted_step: int, alerts_before: int, deadline: float) -> Path:
    while True:
        status, saved = read_status(run), read_saved(run)
        is_taken_up = not run.save_request.exists()
        # What the ranks wrote down: a checkpoint that they passed over as damaged may lie there with a later step.
        if is_taken_up and saved and saved.step is not None and saved.step >= wanted_step:
            return step_directory(run.checkpoints, saved.step)
        alerts = read_alerts(run, status.attempt)[alerts_before:]
        if is_taken_up and alerts:
            raise RunDirectoryError(f"run `{run.name}` could not save: {alerts[-1]}")
        _live_status(run)
        if time.monotonic() > deadline:
            where = ", ".join(
                f"rank {rank.rank}: {rank.phase} since {rank.heartbeat_age_seconds:.0f} s" for rank in status.ranks
            )
            raise RunDirectoryError(
                f"run `{run.name}` has saved nothing yet ({where or status.state}): give it more --timeout-seconds, or "
                f"see `llama-dist status {run.path}`"
            )
        time.sleep(_POLL_SECONDS)


def _alerts(run: RunDirectory, attempt: int) -> int:
    return len(read_alerts(run, attempt))


def read_alerts(run: RunDirectory, attempt: int) -> list[str]:
    """Return the lines in the newest part of rank 0's log that tell of a save that failed, oldest first."""
    log = read_tail(log_directory(run, attempt) / "rank_00000.out", _LOG_TAIL_BYTES)
    return [line for line in log.splitlines() if line.startswith("ALERT: the checkpoint")]
