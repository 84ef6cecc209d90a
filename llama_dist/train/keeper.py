"""Where a run stands, and how that is saved and found again. The files are `llama_dist.checkpoint`'s."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import parse_config
from data_pipeline.stream import TokenStream
from data_pipeline.stream_state import StreamState
from llama_dist.checkpoint.load import agree_on_newest_good, load_into
from llama_dist.checkpoint.manifest import (
    CheckpointError,
    Manifest,
    Progress,
    SaveKind,
    list_steps,
    step_directory,
)
from llama_dist.checkpoint.read_back import read_back
from llama_dist.checkpoint.retention import Retention
from llama_dist.checkpoint.revocation import revoke_unfinished
from llama_dist.checkpoint.save_group import SaveGroup, attempt
from llama_dist.checkpoint.store import CheckpointStore
from llama_dist.checkpoint.transaction import Contents, point_latest
from llama_dist.checkpoint.upload import Share, Uploader, is_uploaded
from llama_dist.checkpoint.writer import CheckpointWriter, Written
from llama_dist.config import CheckpointConfig, RunConfig, RunDirectory, dump_config
from llama_dist.config.run_life import note_saved, read_life, read_saved
from llama_dist.parallel.engine import Engine
from llama_dist.runtime.fence import NO_FENCE, Fence
from llama_dist.runtime.world import World


@dataclass(frozen=True)
class Position:
    """How far a run is. Everything else of the order follows from `consumed_samples`."""

    step: int = 0
    """Optimizer steps done."""

    consumed_samples: int = 0
    """Sequences trained on, over all ranks."""

    def after_step(self, global_batch_sequences: int) -> "Position":
        """Position one optimizer step further."""
        return Position(self.step + 1, self.consumed_samples + global_batch_sequences)


class CheckpointKeeper:
    """Saves and restores one run. Collective: every rank makes one, and calls every method alike, but `take_alerts`."""

    def __init__(
        self,
        run: RunDirectory,
        world: World,
        config: RunConfig,
        stream: TokenStream,
        code_revision: str,
        fence: Fence = NO_FENCE,
    ) -> None:
        self._run, self._directory, self._config, self._stream = run, run.checkpoints, config, stream
        self._fence = fence
        self._tracking = run.tracking_identity
        self._code_revision = code_revision
        # Held from the start: a cache of remote data may drop its copy at any time.
        self._tokenizer = stream.tokenizer_path.read_bytes()
        group = SaveGroup.beside_training(
            world, config.supervision.process_group_timeout_seconds, is_shared=config.checkpoint.shared
        )
        self._group = group
        self._life: str = group.gather(read_life(run))[0]
        self._writer = CheckpointWriter(
            self._directory,
            group,
            self._after_publication,
            is_asynchronous=config.checkpoint.asynchronous,
            fence=fence,
        )
        self.newest_step: int | None = None
        """Step of the newest checkpoint that is known to exist: restored, or written and waited for."""

        self._retention = Retention(self._directory, config.checkpoint, is_uploaded, fence)
        self._uploader = _open_uploader(config.checkpoint, (run.name, self._life), group, fence)
        self._alerts: list[str] = []
        self._failure: CheckpointError | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a save is under way on this rank. Ranks may differ for a moment: they must agree on what follows."""
        return self._writer.is_writing

    @property
    def last_save_seconds(self) -> float | None:
        """How long the last save took on this rank, from its snapshot to its existence; None before the first."""
        return self._writer.last_seconds

    @property
    def write_seconds_left(self) -> float:
        """How long the save under way may still take until its checkpoint exists, judged by the last one; 0 if none."""
        return self._writer.seconds_left()

    def save(
        self, engine: Engine, position: Position, *, kind: SaveKind = "interval", held_out_loss: float | None = None
    ) -> None:
        """Collective. Begin the checkpoint of `position`, after the one before it is written.

        A save that fails is told by `take_alerts`, since the older checkpoints stand, and raised by `finish`. A step
        that is saved already is not saved again. Raises PeerLostError where the save before lost a rank.
        """
        self._collect(self._writer.wait)
        self._failure = None
        if position.step == self.newest_step:
            return
        progress = self._progress(engine, position, kind, held_out_loss)
        self._writer.begin(engine, Contents(progress, engine.scalars(), self._tokenizer))
        self._collect(self._writer.poll)  # written already, if it is not asynchronous

    def finish(self) -> None:
        """Collective. Wait until the last save is written. Raises CheckpointError on every rank if it failed on one."""
        self._collect(self._writer.wait)
        if self._failure:
            raise self._failure

    def take_alerts(self) -> list[str]:
        """Return what went wrong with the saves that have ended since the last call; waits for none.

        Raises PeerLostError where one lost a rank.
        """
        self._collect(self._writer.poll)
        alerts, self._alerts = self._alerts, []
        return alerts + (self._uploader.take_alerts() if self._uploader else [])

    def finish_uploads(self, timeout_seconds: float) -> None:
        """Wait for the copies to the store, at most so long; what is left is copied by the next attempt."""
        if self._uploader:
            self._uploader.finish(timeout_seconds)

    def restore_newest(self, engine: Engine, tell: Callable[[str], None]) -> Position:
        """Collective. Load the newest good checkpoint into `engine`; a run that never saved starts at step 0.

        Raises CheckpointError where checkpoints exist but none is good or fits, DataError where the data is not the
        data that the checkpoint was trained on, ConfigError where a host lacks the memory for the saves to come.
        """
        self._writer.prepare(engine)
        position = self._load_newest(engine, tell)
        self._writer.warm(engine)
        return position

    def _load_newest(self, engine: Engine, tell: Callable[[str], None]) -> Position:
        world, is_shared = self._group.world, self._config.checkpoint.shared
        if self._group.is_leader:
            revoke_unfinished(self._directory, self._fence)
        found = agree_on_newest_good(
            self._directory, world.rank, world.world_size, local_rank=None if is_shared else world.local_rank
        )
        if found is None:
            self._refuse_vanished()
            tell("no checkpoint: starting at step 0")
            return Position()
        self._retention.pass_over(found.damaged_steps)
        for fault in found.passed_over:
            tell(f"ALERT: passed over a newer checkpoint: {fault}")
        manifest = found.manifest
        consumed_samples = 0  # an imported checkpoint has seen none of this run's data
        if manifest.data:
            state = parse_config(StreamState, manifest.data, where=str(found.directory))
            self._stream.check_state(state)
            consumed_samples = state.consumed_samples
        load_into(engine, found, model_config=dump_config(self._config)["model"], tell=tell)
        self.newest_step = manifest.step
        self._retention.note_verified(manifest.step)
        for alert in self._note_saved(manifest.step):
            tell(f"ALERT: {alert}")
        tell(f"resumed from {found.directory} (step {manifest.step}, {manifest.tokens_seen} tokens seen)")
        return Position(manifest.step, consumed_samples)

    def _refuse_vanished(self) -> None:
        """Collective. Raise CheckpointError where the run is known to have saved: its disk may not be there."""
        saved = read_saved(self._run)
        step = self._group.gather(saved.step if saved else None)[0]
        if step is not None:
            raise CheckpointError(
                f"{self._directory}: holds no checkpoint, but run `{self._run.name}` has saved step {step}: mount or "
                "restore the directory, or start again at step 0 with --fresh"
            )

    def _note_saved(self, step: int) -> list[str]:
        """Write down, by rank 0, that the checkpoint is good; answers what went wrong."""
        outcome = attempt(note_saved, self._run, step) if self._group.rank == 0 else {}
        return [f"the run's note of it was not written: {outcome['error']}"] if "error" in outcome else []

    def _collect(self, ask: Callable[[], Written | None]) -> None:
        """Take over what came of a save that has ended."""
        try:
            written = ask()
        except CheckpointError as error:
            self._failure = error
            self._alerts.append(str(error))
            return
        if written:
            self.newest_step = written.step
            self._alerts += [f"step {written.step} is saved, but: {alert}" for alert in written.alerts]

    def _progress(self, engine: Engine, position: Position, kind: SaveKind, held_out_loss: float | None) -> Progress:
        config, grid = self._config, engine.grid
        return Progress(
            step=position.step,
            tokens_seen=position.consumed_samples * config.data.sequence_length_tokens,
            config=dump_config(config),
            code_revision=self._code_revision,
            world={
                "world_size": grid.world_size,
                "pipeline_stages": grid.pp_size,
                "zero_stage": config.parallel.zero_stage,
            },
            data=self._stream.state(position.consumed_samples).model_dump(),
            kind=kind,
            held_out_loss=held_out_loss,
            tracking=_read_tracking(self._tracking),
            life=self._life,
        )

    def _after_publication(self, directory: Path, manifest: Manifest) -> list[str]:
        """In the writer's thread, on every rank. Raises NotReadBackError."""
        self._retention.note_written(manifest)
        if manifest.kind != "stop":  # whose time is short: the next start reads it
            read_back(directory, manifest, self._group, is_shared=self._config.checkpoint.shared)
            self._retention.note_verified(manifest.step)
        alerts = self._note_saved(manifest.step)
        if self._uploader:
            self._uploader.submit(self._not_later(manifest.step), manifest)
        if self._group.is_leader:
            # A fence that closed meanwhile needs no alert: the next step of the training ends at it.
            pointed = attempt(self._point_latest, directory)
            removed = attempt(self._retention.remove_superseded, manifest.step)
            alerts += [f"the link `latest` could not be moved: {pointed['error']}"] if "error" in pointed else []
            alerts += [f"older files could not be removed: {removed['error']}"] if "error" in removed else []
        return alerts

    def _not_later(self, step: int) -> list[Path]:
        """The checkpoints up to `step`: with those that were not copied in time, by this attempt or one before."""
        steps = [one for one in list_steps(self._directory) if one <= step and not self._retention.is_damaged(one)]
        return [step_directory(self._directory, one) for one in steps]

    def _point_latest(self, directory: Path) -> None:
        self._fence.check()
        point_latest(self._directory, directory)


def _open_uploader(
    policy: CheckpointConfig, name_and_life: tuple[str, str], group: SaveGroup, fence: Fence
) -> Uploader | None:
    """Collective. The uploader of this rank's share of the files that are on its disk."""
    if policy.upload is None:
        return None
    hosts = group.gather(group.host)
    ranks_here = [rank for rank, host in enumerate(hosts) if policy.shared or host == group.host]
    share = Share(
        index=ranks_here.index(group.rank),
        count=len(ranks_here),
        is_disk_leader=group.is_leader,
        is_first=group.rank == 0,
        is_shared_disk=policy.shared,
    )
    return Uploader(CheckpointStore(policy.upload, *name_and_life), share, fence)


def _read_tracking(path: Path) -> dict[str, Any]:
    """The run's identity in the tracker, where it has one; what it says is not for us to judge."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
