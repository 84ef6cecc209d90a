"""What `llama-dist checkpoint prune` and `fetch` do: a run's own rules, applied by hand. Prints nothing."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_dist.checkpoint.manifest import CheckpointError, list_steps, step_directory
from llama_dist.checkpoint.retention import Retention, remove_checkpoint
from llama_dist.checkpoint.store import CheckpointStore
from llama_dist.checkpoint.upload import is_uploaded, persist
from llama_dist.checkpoint.verify import verify_checkpoint
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
    newest = _newest_good(run.checkpoints)
    reasons = Retention(run.checkpoints, policy, is_uploaded).reasons(newest)
    return [Verdict(step, reasons[step]) for step in sorted(reasons)]


def prune(run: RunDirectory, verdicts: list[Verdict]) -> None:
    """Remove what is not kept. Safe beside the live run, which removes the same."""
    for verdict in verdicts:
        if not verdict.is_kept:
            remove_checkpoint(run.checkpoints, verdict.step)


def fetch(run: RunDirectory, step: int | None, store_url: str | None = None) -> Path:
    """Copy a checkpoint, by default the newest good one, from the run's store to the local disk; answers its directory.

    `store_url` stands for the run's own `checkpoint.upload`.

    Raises CheckpointError where the run has no store, the store no such checkpoint, or none that is whole.
    """
    url = store_url or policy_of(run).upload
    if url is None:
        raise CheckpointError(f"run `{run.name}` has no checkpoint.upload: there is no store to fetch from")
    store = CheckpointStore(url, run.name)
    there = persist(store.steps)
    wanted = [one for one in reversed(there) if step in (None, one)]
    faults = []
    for one in wanted:
        try:
            return persist(lambda one=one: store.fetch(one, Path(run.checkpoints).resolve()))  # type: ignore[misc]
        except CheckpointError as error:
            faults.append(str(error))
    listed = "\n  ".join(faults) or f"it has {', '.join(map(str, there)) or 'none'}"
    raise CheckpointError(f"{store.url}: no {'checkpoint' if step is None else f'step {step}'} to fetch: {listed}")


def _newest_good(checkpoints: Path) -> int:
    faults: list[str] = []
    for step in reversed(list_steps(checkpoints)):
        found = verify_checkpoint(step_directory(checkpoints, step))
        if not found:
            return step
        faults += found
    listed = "\n  ".join(faults) or "there is none"
    raise CheckpointError(f"{checkpoints}: no checkpoint is good, so none is removed:\n  {listed}")
