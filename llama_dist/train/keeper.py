"""Where a run stands, and how that is saved and found again. The files are `llama_dist.checkpoint`'s."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import parse_config
from data_pipeline.stream import TokenStream
from data_pipeline.stream_state import StreamState
from llama_dist.checkpoint.load import agree_on_newest_good, load_into
from llama_dist.checkpoint.manifest import CheckpointError, Progress, SaveKind
from llama_dist.checkpoint.save import save_checkpoint
from llama_dist.config import RunConfig, dump_config
from llama_dist.parallel.engine import Engine


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
    """Saves and restores one run. Collective: every rank calls every method alike."""

    def __init__(self, directory: Path, config: RunConfig, stream: TokenStream, code_revision: str) -> None:
        self._directory, self._config, self._stream = directory, config, stream
        self._code_revision = code_revision
        # Held from the start: a cache of remote data may drop its copy at any time.
        self._tokenizer = stream.tokenizer_path.read_bytes()

        self._alerts: list[str] = []
        self._failure: CheckpointError | None = None

    def save(
        self, engine: Engine, position: Position, *, kind: SaveKind = "interval", held_out_loss: float | None = None
    ) -> None:
        """Collective. Begin the checkpoint of `position`, after the one before it is written.

        A save that fails is told by `take_alerts`, since the older checkpoints stand, and raised by `finish`.
        """
        config, grid = self._config, engine.grid
        progress = Progress(
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
        )
        self._failure = None
        try:
            complaint = save_checkpoint(
                self._directory,
                engine,
                progress,
                tokenizer=self._tokenizer,
                keep_last=config.checkpoint.keep_last,
            )
        except CheckpointError as error:
            self._failure = error
            self._alerts.append(str(error))
        else:
            self._alerts += [complaint] if complaint else []

    def finish(self) -> None:
        """Collective. Wait until the last save is written. Raises CheckpointError on every rank if it failed on one."""
        if self._failure:
            raise self._failure

    def take_alerts(self) -> list[str]:
        """Return what went wrong with saves since the last call."""
        alerts, self._alerts = self._alerts, []
        return alerts

    def restore_newest(self, engine: Engine, tell: Callable[[str], None]) -> Position:
        """Load the newest good checkpoint into `engine`; a run that never saved starts at step 0.

        Raises CheckpointError where checkpoints exist but none is good or fits, DataError where the data is not the
        data that the checkpoint was trained on.
        """
        found = agree_on_newest_good(self._directory, engine.grid.rank, engine.grid.world_size)
        if found is None:
            tell("no checkpoint: starting at step 0")
            return Position()
        for fault in found.passed_over:
            tell(f"ALERT: passed over a damaged checkpoint: {fault}")
        state = parse_config(StreamState, found.manifest.data, where=str(found.directory))
        self._stream.check_state(state)
        load_into(engine, found)
        tell(f"resumed from {found.directory} (step {found.manifest.step}, {found.manifest.tokens_seen} tokens seen)")
        return Position(found.manifest.step, state.consumed_samples)
