"""What `llama-dist checkpoint prune` does: a run's own rules, applied by hand. Prints nothing."""

from dataclasses import asdict, dataclass
from typing import Any

from llama_dist.checkpoint.manifest import CheckpointError, read_manifest
from llama_dist.checkpoint.retention import Retention, remove_checkpoint
from llama_dist.checkpoint.upload import is_uploaded
from llama_dist.checkpoint.verify import find_newest_good
from llama_dist.config import CheckpointConfig, RunDirectory, load_run_config


@dataclass(frozen=True)
class Verdict:
    """Whether one checkpoint is kept, and why."""

    step: int
    kept_because: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        """Whether it stays."""
        return bool(self.kept_because)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_line(self) -> str:
        """One line for a person."""
        return f"step {self.step}: {'kept: ' + ', '.join(self.kept_because) if self.is_kept else 'superseded'}"


def policy_of(run: RunDirectory) -> CheckpointConfig:
    """The rules of the run's newest attempt. Raises ConfigError if the config cannot be read."""
    configs = sorted(run.attempts.glob("*/config.yaml")) or [run.config]
    return load_run_config(configs[-1]).checkpoint


def judge(run: RunDirectory, policy: CheckpointConfig) -> list[Verdict]:
    """Return what the policy makes of each checkpoint, oldest first; reads every byte of the newest good one.

    Raises CheckpointError where none is good: then nothing may be removed.
    """
    try:
        newest = find_newest_good(run.checkpoints)
    except CheckpointError as error:
        raise CheckpointError(f"none is removed: {error}") from None
    retention = Retention(run.checkpoints, policy, is_uploaded)
    reasons = retention.reasons(read_manifest(newest).step)
    return [Verdict(step, reasons[step]) for step in sorted(reasons)]


def prune(run: RunDirectory, verdicts: list[Verdict]) -> None:
    """Remove what is not kept. Safe beside the live run, which removes the same."""
    for verdict in verdicts:
        if not verdict.is_kept:
            remove_checkpoint(run.checkpoints, verdict.step)
