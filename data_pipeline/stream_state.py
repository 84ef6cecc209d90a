"""All that a checkpoint keeps of the data: where the stream stands, and which stream it is. Reads no data."""

import json
from typing import Annotated, Any

from pydantic import Field

from data_pipeline.config import ConfigError, StrictModel, parse_config
from data_pipeline.errors import DataError

# What each field means to the person who reads the refusal.
_CAUSES = {
    "version": "another release of the program wrote it",
    "seed": "data.shuffle_seed was changed",
    "sequence_length_tokens": "data.sequence_length_tokens was changed",
    "mixture_hash": "weights, stages, skips, packing or the shuffle window of the samples so far were changed",
    "fingerprint": "the order of data.sources, or the tokens of one that was read from, were changed",
}


class StreamState(StrictModel):
    """The same on every rank and at every world size; at most 512 bytes of JSON."""

    version: int
    """Version of the order."""

    consumed_samples: Annotated[int, Field(ge=0)]
    """Samples that the trainer has taken, over all ranks; skipped ones are not among them."""

    seed: int
    """Seed of the order."""

    sequence_length_tokens: int
    """Tokens of one sample."""

    mixture_hash: str
    """Hash of what decided the samples so far: the shares of each stage begun, skips, packing, shuffle window."""

    fingerprint: str
    """Hash of the fingerprints of the sources that the stages begun draw from, with their numbers."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.model_dump())

    @staticmethod
    def from_json(text: str) -> "StreamState":
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"stream state: not JSON at character {error.pos}: {text[:80]!r}") from None
        if not isinstance(values, dict):
            raise DataError(f"stream state: holds {type(values).__name__}, needs a JSON object: {text[:80]!r}")
        try:
            return parse_config(StreamState, values, where="stream state")
        except ConfigError as error:
            raise DataError(str(error)) from None


def check_same_past(saved: StreamState, present: StreamState, end_tokens: int) -> None:
    """Raise DataError that prints both sides if `present` is another way to the samples that `saved` counts.

    `end_tokens` is where a stage would have to start at the earliest. Without a past, anything goes.
    """
    if not saved.consumed_samples:
        return
    differing = [name for name in _CAUSES if getattr(saved, name) != getattr(present, name)]
    if differing:
        lines = "\n".join(
            f"  {name}: saved {getattr(saved, name)!r}, now {getattr(present, name)!r} ({_CAUSES[name]})"
            for name in differing
        )
        raise DataError(
            f"the saved position, {saved.consumed_samples} samples, belongs to another stream than the config's:\n"
            f"{lines}\n  resuming would repeat and skip data: restore the former setting, or start a new run.\n"
            "  To go on with other weights or a new source, leave the former ones as they were (a new source goes "
            f"last, with weight 0), and add one to data.stages with starts_at_tokens >= {end_tokens}"
        )
