"""Where everything of a run lies on disk: paths only. Launcher, trainer and metrics meet nowhere else."""

import re
from dataclasses import dataclass
from pathlib import Path

SPOOL_NAME = "spool.jsonl"
_SET_ASIDE_PATTERN = re.compile(r"\.before_attempt_(\d+)$")


@dataclass(frozen=True)
class RunDirectory:
    """The paths under `runs/<name>/`. Creates and reads nothing."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved config of the first launch (`run.yaml`)."""
        return self.path / "run.yaml"

    @property
    def lock(self) -> Path:
        """Held by the supervisor of the live run, on its host."""
        return self.path / "lock"

    @property
    def leases(self) -> Path:
        """Directory with the lease of the live run's supervisor, which holds over all hosts."""
        return self.path / "leases"

    @property
    def supervisor(self) -> Path:
        """JSON: what the supervisor is, does and decided."""
        return self.path / "supervisor.json"

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def save_request(self) -> Path:
        """Exists while a checkpoint is asked for by `llama-dist checkpoint now`; rank 0 removes it as it begins one."""
        return self.path / "save_request.json"

    @property
    def stop_request(self) -> Path:
        """JSON, while a stop is asked for by `llama-dist stop`; the supervisor removes it as it takes it up."""
        return self.path / "stop_request.json"

    @property
    def life(self) -> Path:
        """JSON: the token of the run's life. See `run_life.py`."""
        return self.path / "life.json"

    @property
    def saved(self) -> Path:
        """JSON: how far that life has saved. See `run_life.py`."""
        return self.path / "saved.json"

    @property
    def metrics(self) -> Path:
        """Directory of the spool."""
        return self.path / "metrics"

    @property
    def spool(self) -> Path:
        """One JSON line a step."""
        return self.metrics / SPOOL_NAME

    @property
    def tracking_identity(self) -> Path:
        """JSON: which run of the tracker belongs to this directory. What it says is the shipper's."""
        return self.metrics / "mlflow_run.json"

    @property
    def heartbeats(self) -> Path:
        """Directory with one small JSON file a rank."""
        return self.path / "heartbeats"

    def heartbeat(self, rank: int) -> Path:
        """JSON: pid, create_time, host, attempt, step, phase, micro_batch, time of one rank."""
        return self.heartbeats / f"rank_{rank:05d}.json"

    @property
    def nodes(self) -> Path:
        """Directory with a lock and a sign of life of each node's agent, where there are several nodes."""
        return self.path / "nodes"

    @property
    def attempts(self) -> Path:
        """Directory of the attempts."""
        return self.path / "attempts"

    def attempt(self, number: int) -> Path:
        """Directory of one attempt, counted from 1: config.yaml, plan, environment, logs, exit records."""
        return self.attempts / f"{number:04d}"

    def attempt_config(self, number: int) -> Path:
        """The resolved config that the attempt's ranks read."""
        return self.attempt(number) / "config.yaml"

    def attempt_end(self, number: int) -> Path:
        """JSON: how an attempt ended, written by the supervisor once its ranks are gone."""
        return self.attempt(number) / "exit.json"

    def exit_record(self, number: int, rank: int) -> Path:
        """JSON that a rank leaves when it ends by itself: exit_code, reason, step, host, time."""
        return self.attempt(number) / "exits" / f"rank_{rank:05d}.json"

    def stacks(self, number: int, rank: int) -> Path:
        """Text: where the threads of a rank stood, each time that it was asked by SIGUSR2."""
        return self.attempt(number) / "stacks" / f"rank_{rank:05d}.txt"


def set_aside_path(directory: Path, attempt: int) -> Path:
    """Where a run that begins anew with `attempt` keeps what its directory held until then."""
    return directory.with_name(f"{directory.name}.before_attempt_{attempt:04d}")


def set_aside_attempt(path: Path) -> int | None:
    """Return the attempt that a run began anew with, from a name of `set_aside_path`; None for any other name."""
    match = _SET_ASIDE_PATTERN.search(path.name)
    return int(match[1]) if match else None
