"""What `llama-dist checkpoint fetch` does: brings a checkpoint back from the run's store. Prints nothing."""

import fcntl
from collections.abc import Callable
from pathlib import Path

from llama_dist.checkpoint.manifest import CheckpointError, has_any_step, is_step_directory, step_directory
from llama_dist.checkpoint.pruning import policy_of
from llama_dist.checkpoint.store import CheckpointStore
from llama_dist.checkpoint.upload import persist
from llama_dist.checkpoint.verify import verify_checkpoint
from llama_dist.config import RunDirectory
from llama_dist.config.run_life import read_life


def fetch(
    run: RunDirectory,
    step: int | None,
    store_url: str | None = None,
    *,
    life: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Copy a checkpoint, by default the newest good one, from the run's store to the local disk; answers its directory.

    `store_url` stands for the run's own `checkpoint.upload`, `life` for the run's own; where its directory was lost
    with that, the newest life in the store is taken, and `tell` is told. A damaged one in its place is set aside.

    Raises CheckpointError where the run has no store, the store no such checkpoint, or none that is whole; where the
    local one is good; and where the run is live, since it would go on from what was put there.
    """
    url = store_url or policy_of(run).upload
    if url is None:
        raise CheckpointError(f"run `{run.name}` has no checkpoint.upload: there is no store to fetch from")
    _refuse_live(run)
    lives = persist(CheckpointStore(url, run.name).lives)
    chosen = _choose(run, life, lives, tell)
    store = CheckpointStore(url, run.name, chosen)
    there = persist(store.steps)
    faults = []
    for one in (one for one in reversed(there) if step in (None, one)):
        _refuse_good(step_directory(run.checkpoints, one))
        try:
            return persist(lambda one=one: store.fetch(one, Path(run.checkpoints).resolve()))  # type: ignore[misc]
        except CheckpointError as error:
            faults.append(str(error))
    listed = "\n  ".join(faults) or f"it has {', '.join(map(str, there)) or 'none'}"
    others = ", ".join(_name(one) for one in lives if one != chosen)
    hint = f"\nOther lives of this run's name there: {others}: name one with --life" if others else ""
    wanted = "checkpoint" if step is None else f"step {step}"
    raise CheckpointError(f"{store.url}: no {wanted} to fetch: {listed}{hint}")


def _choose(run: RunDirectory, asked: str | None, lives: list[str], tell: Callable[[str], None]) -> str:
    if asked is not None:
        if asked not in lives:
            there = ", ".join(_name(life) for life in lives) or "none"
            raise CheckpointError(f"the store has no life {asked!r} of run `{run.name}`; it has: {there}")
        return asked
    own = read_life(run)
    if own or not lives:
        return own
    others = f"; it also has {', '.join(_name(life) for life in lives[:-1])}" if lives[:-1] else ""
    tell(f"run `{run.name}` has no life of its own here: taking the newest of the store, {_name(lives[-1])}{others}")
    return lives[-1]


def _name(life: str) -> str:
    return life or "'' (from before runs had lives)"


def _refuse_live(run: RunDirectory) -> None:
    """Raise CheckpointError for a live run. One that lacks every checkpoint is being launched, and asked for this."""
    if not has_any_step(run.checkpoints) or not run.lock.exists():
        return
    with run.lock.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"run `{run.name}` is live, and would go on from what is fetched: stop it first "
                f"(`llama-dist stop {run.path}`)"
            ) from None


def _refuse_good(directory: Path) -> None:
    if is_step_directory(directory) and not verify_checkpoint(directory):
        raise CheckpointError(f"{directory}: is there already, and good: it is not replaced")
