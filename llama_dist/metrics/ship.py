"""The process that ships a run's metrics: `python -m llama_dist.metrics.ship --run-directory runs/x`.

Started beside the training and apart from it: whatever the tracker does, slow, broken or away, costs the training
nothing. It follows the spool until the run is over, says how the run ended, and ends. Started by hand on a run that
is over, it sends what is missing.
"""

import argparse
import fcntl
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llama_dist.config import ConfigError, RunDirectory
from llama_dist.exit_codes import ExitCode
from llama_dist.metrics.run_facts import latest_config, without_credentials
from llama_dist.metrics.run_status import read_run_status
from llama_dist.metrics.shipment import Shipment
from llama_dist.metrics.spool import spool_path
from llama_dist.metrics.tracker import RunStatus, Tracker

POLL_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0

# After the end of a run: long enough for a server that restarts; the launcher waits at most 60 s for the process.
FLUSH_SECONDS = 40.0

_ENVIRONMENT_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Shipper:
    """Follows one run, through every failure of the tracker, until the run is over and all of it is shipped."""

    def __init__(
        self,
        directory: RunDirectory,
        connect: Callable[[RunDirectory], Tracker],
        *,
        wait: Callable[[float], None] = time.sleep,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._directory = directory
        self._connect = connect
        self._wait = wait
        self._flush_seconds = flush_seconds
        self._started = time.time()
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._connection: tuple[Tracker, Shipment] | None = None
        self._metrics_inode = _inode_of(directory.metrics)

    def run(self) -> ExitCode:
        """Ship until the run is over; DONE where all was shipped, RETRY where the tracker stayed away to the end."""
        over_since: float | None = None
        while True:
            if _inode_of(self._directory.metrics) != self._metrics_inode:
                self._say("the run began anew, with metrics of its own: this process ends, another one ships those")
                return ExitCode.DONE
            status = read_run_status(self._directory, self._started)
            now = time.monotonic()
            over_since = None if status == "RUNNING" else over_since or now
            is_shipped = self._ship(status)
            if over_since is not None:
                if is_shipped:
                    return ExitCode.DONE
                if now - over_since >= self._flush_seconds:
                    self._say("the run is over and its last steps are not shipped: run this command again later")
                    return ExitCode.RETRY
            self._pause(is_shipped, over_since)

    def _ship(self, status: RunStatus) -> bool:
        """Ship what is new, and the status; False where the tracker failed."""
        try:
            if self._connection is None:
                if status == "RUNNING" and not spool_path(self._directory.metrics).exists():
                    return True  # the first step comes first: loading MLflow would take its processor time
                self._connection = self._open(status)
            tracker, shipment = self._connection
            shipment.send_new(writer_is_gone=status != "RUNNING")
            if status != "RUNNING":
                tracker.set_status(status)
            self._backoff_seconds = FIRST_BACKOFF_SECONDS
        except Exception as error:  # noqa: BLE001  (process edge: no fault of a tracker may end the shipping)
            self._connection = None
            self._say(f"{type(error).__name__}: {error}; next try in {self._backoff_seconds:.0f} s")
            return False
        return True

    def _open(self, status: RunStatus) -> tuple[Tracker, Shipment]:
        tracker = self._connect(self._directory)
        shipment = Shipment(self._directory, tracker)
        if status == "RUNNING":  # the run may have been ended in the tracker by an earlier launch
            tracker.set_status(status)
        return tracker, shipment

    def _pause(self, is_shipped: bool, over_since: float | None) -> None:
        """Wait for the next try. The run's end cuts it short, and the tries after that fit into the last flush."""
        left = POLL_SECONDS if is_shipped else self._backoff_seconds
        if not is_shipped:
            self._backoff_seconds = min(2 * self._backoff_seconds, MAX_BACKOFF_SECONDS)
        if over_since is not None:
            left = min(left, max(over_since + self._flush_seconds - time.monotonic(), 0.0))
        while left > 0:
            self._wait(min(left, POLL_SECONDS))
            left -= POLL_SECONDS
            if over_since is None and read_run_status(self._directory, self._started) != "RUNNING":
                self._backoff_seconds = FIRST_BACKOFF_SECONDS
                return

    def _say(self, message: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        print(f"{stamp} metrics of {self._directory.path}: {without_credentials(message)}", file=sys.stderr, flush=True)


def _inode_of(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def connect_to_mlflow(directory: RunDirectory) -> Tracker:
    """Connect to the store that the newest attempt's config names, or to `mlflow.db` beside the run directories."""
    # The environment must be set before the import, which reads it; and a test of the shipping needs no MLflow.
    from llama_dist.metrics.mlflow_tracker import MlflowTracker  # noqa: PLC0415

    config = latest_config(directory).metrics
    if config.tracking_uri is not None:
        return MlflowTracker(with_environment(config.tracking_uri), config.experiment)
    beside = directory.path.resolve().parent
    with (beside / "mlflow.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs that create the same database at once would break it
        return MlflowTracker(f"sqlite:///{beside / 'mlflow.db'}", config.experiment, f"{beside / 'mlflow-artifacts'}")


def main(arguments: list[str] | None = None) -> int:
    """Ship one run; returns an exit code."""
    parser = argparse.ArgumentParser(prog="llama_dist.metrics.ship", description="Ships a run's metrics to MLflow.")
    parser.add_argument("--run-directory", type=Path, required=True, help="for example runs/tiny")
    directory = RunDirectory(parser.parse_args(arguments).run_directory)
    try:
        if not latest_config(directory).metrics.mlflow:
            return ExitCode.DONE
    except ConfigError as error:
        print(error, file=sys.stderr)
        return ExitCode.BAD_INPUT
    _behave_beside_training()
    directory.metrics.mkdir(parents=True, exist_ok=True)
    with (directory.metrics / "ship.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the shipper of the launch before may still be at its last flush
        return Shipper(directory, connect_to_mlflow).run()


def _behave_beside_training() -> None:
    """Leave the processor to the trainer, keep files private, and fail fast: the waiting between tries is ours."""
    os.nice(10)
    os.umask(0o077)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # a training job calls nobody unasked
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")


def with_environment(uri: str) -> str:
    """Put in the values of `${NAME}`: a password stays in the environment, out of every file of the run."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"metrics.tracking_uri needs the environment variable {match[1]}, which is not set")
        return os.environ[match[1]]

    return _ENVIRONMENT_REFERENCE.sub(value, uri)


if __name__ == "__main__":
    sys.exit(main())
